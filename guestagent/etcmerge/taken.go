package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Taken is an account of a release with a number that another account of this VM has. Files of the release with
// that owner would belong to the account of this VM.
type Taken struct {
	// Group is true for a group, false for a user.
	Group bool
	// Name is the account of the release, Number its number, and Here the account of this VM.
	Name   string
	Number uint32
	Here   string
}

// String describes it: "user sshd with the number 990, which user me has here".
func (t Taken) String() string {
	what := t.what()
	return fmt.Sprintf("%s %s with the number %d, which %s %s has here", what, t.Name, t.Number, what, t.Here)
}

// Remedy is the command with which an administrator gives the account of this VM another number.
func (t Taken) Remedy() string {
	if t.Group {
		return "groupmod -g <free number> " + t.Here
	}
	return "usermod -u <free number> " + t.Here
}

func (t Taken) what() string {
	if t.Group {
		return "group"
	}
	return "user"
}

// TakenNumbers returns the accounts of a release that have not their number here, while another
// account has it. That the release before had them, too, makes no difference: files that are new
// would belong to the account here. here is this VM's passwd, or group.
func TakenNumbers(group bool, next map[string]uint32, here string) []Taken {
	own := accountNumbers(here)
	byNumber := map[uint32]string{}
	for _, name := range slices.Sorted(maps.Keys(own)) {
		// Accounts that share a number in the release may share it here.
		if number, shares := next[name]; shares && number == own[name] {
			continue
		}
		if _, found := byNumber[own[name]]; !found {
			byNumber[own[name]] = name
		}
	}
	var taken []Taken
	for _, name := range slices.Sorted(maps.Keys(next)) {
		number := next[name]
		if holder := byNumber[number]; holder != "" && holder != name && own[name] != number {
			taken = append(taken, Taken{Group: group, Name: name, Number: number, Here: holder})
		}
	}
	return taken
}

// ForeignFiles reports the files of the tree's /usr that belong to an account of the system at root
// although the release means another account: a boot onto another stack cannot be refused for that,
// as a refresh is. Call it before the carry, which gives the release's account a free number.
func ForeignFiles(root, tree string) ([]Conflict, error) {
	here, err := Accounts(root)
	if err != nil {
		return nil, err
	}
	next, err := Accounts(tree)
	if err != nil {
		return nil, err
	}
	var taken []Taken
	for name, group := range map[string]bool{passwdPath: false, groupPath: true} {
		taken = append(taken, TakenNumbers(group, accountNumbers(next[name]), here[name])...)
	}
	if len(taken) == 0 {
		return nil, nil
	}
	found := map[Taken]string{}
	err = filepath.WalkDir(filepath.Join(tree, "usr"), func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		for _, one := range taken {
			if ok && found[one] == "" && (one.Group && stat.Gid == one.Number || !one.Group && stat.Uid == one.Number) {
				found[one] = strings.TrimPrefix(name, filepath.Clean(tree)+"/")
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for files of other accounts: %w", err)
	}
	var conflicts []Conflict
	for one, name := range found {
		conflicts = append(conflicts, Conflict{
			Path: name, Kind: ForeignOwner,
			Reason: fmt.Sprintf(
				"the release has %s, and this file, perhaps among others, belongs to that account here; %s", one,
				one.Remedy()),
		})
	}
	return sortConflicts(conflicts), nil
}

// Accounts reads passwd and group of the system at root. A file that does not exist is absent.
func Accounts(root string) (texts AccountTexts, err error) {
	opened, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("read the account files: %w", err)
	}
	defer func() {
		if closeErr := opened.Close(); err == nil {
			err = closeErr
		}
	}()
	texts = AccountTexts{}
	for _, name := range []string{passwdPath, groupPath} {
		info, err := plainAt(opened, name)
		if err != nil {
			return nil, fmt.Errorf("read the account files: %w", err)
		}
		if info == nil || info.IsDir() {
			continue
		}
		data, err := readAt(opened, name)
		if err != nil {
			return nil, fmt.Errorf("read the account files: %w", err)
		}
		texts[name] = string(data)
	}
	return texts, nil
}

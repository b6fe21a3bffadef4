package etcmerge

import (
	"fmt"
	"maps"
	"os"
	"slices"
)

// Taken is an account that a release adds with a number that another account of this VM has. Files of the release with
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

// TakenNumbers returns the accounts that the new release has, the old one has not with that number, and whose number
// another account here has. here is this VM's passwd, or group.
func TakenNumbers(group bool, old, next map[string]uint32, here string) []Taken {
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
		if was, known := old[name]; known && was == number {
			continue
		}
		if holder := byNumber[number]; holder != "" && holder != name && own[name] != number {
			taken = append(taken, Taken{Group: group, Name: name, Number: number, Here: holder})
		}
	}
	return taken
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

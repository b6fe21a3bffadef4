package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Seeding decides which new paths of a release a VM gets in its own trees (tree.OwnedByVM). It is the rule for a carry
// and for a boot.
//
// A path that the VM has stays as it is. A path that it does not have is added only if the VM does not use the
// directory that contains it, nor one further up: files of a later build, mixed into the data of a database or into the
// spool of a daemon, would damage it. The VM uses a directory in which it has created, changed or deleted something.
// Directories that all programs and users share, such as /var/lib, do not count (shared).
type Seeding struct {
	// Delivered reports whether a directory of the VM is as an earlier release delivered it: it has the same entries,
	// and each as it was delivered. Directories in it are compared by name and type only. A directory that the VM does
	// not have counts as delivered, one that the VM has created does not.
	Delivered func(directory string) (bool, error)

	delivered map[string]bool
}

// sharedDirectories contain a directory for each program, user or site, so that what one of them does in its own says
// nothing of the others (hier(7)).
var sharedDirectories = []string{
	"var", "var/backups", "var/cache", "var/lib", "var/lib/private", "var/local", "var/log", "var/mail", "var/spool", "var/tmp", "var/www",
	"home", "srv",
}

func shared(directory string) bool {
	return directory == "." || slices.Contains(sharedDirectories, directory)
}

// InUse returns the directory that the VM uses and below which a new path would be, "" if there is none.
func (s *Seeding) InUse(name string) (directory string, err error) {
	for directory = path.Dir(name); !shared(directory); directory = path.Dir(directory) {
		delivered, known := s.delivered[directory]
		if !known {
			if delivered, err = s.Delivered(directory); err != nil {
				return "", fmt.Errorf("look whether /%s is in use: %w", directory, err)
			}
			if s.delivered == nil {
				s.delivered = map[string]bool{}
			}
			s.delivered[directory] = delivered
		}
		if !delivered {
			return directory, nil
		}
	}
	return "", nil
}

// asIn returns Seeding.Delivered for a VM whose root is live and that has had the release of the tree old.
func asIn(live, old *os.Root) func(directory string) (bool, error) {
	return func(directory string) (bool, error) {
		info, err := lstatBelow(live, directory)
		if err != nil || info == nil {
			return err == nil, err
		}
		if !info.IsDir() {
			return false, nil
		}
		here, err := namesIn(live, directory)
		if err != nil {
			return false, err
		}
		there, err := namesIn(old, directory)
		if errors.Is(err, unix.ENOTDIR) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		slices.Sort(here)
		slices.Sort(there)
		if _, err := old.Lstat(directory); err != nil || !slices.Equal(here, there) {
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return false, err
		}
		for _, name := range here {
			same, err := sameFile(live, old, path.Join(directory, name))
			if err != nil || !same {
				return false, err
			}
		}
		return true, nil
	}
}

// sameFile compares two files by type, size and time, and by content if only the times differ.
func sameFile(a, b *os.Root, name string) (bool, error) {
	var infos [2]fs.FileInfo
	for i, root := range []*os.Root{a, b} {
		info, err := root.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil // removed meanwhile
		}
		if err != nil {
			return false, err
		}
		infos[i] = info
	}
	if infos[0].Mode().Type() != infos[1].Mode().Type() {
		return false, nil
	}
	switch {
	case infos[0].Mode().IsRegular():
		if infos[0].Size() != infos[1].Size() || infos[0].Size() > maxFile {
			return false, nil
		}
		if infos[0].ModTime().Equal(infos[1].ModTime()) {
			return true, nil
		}
		first, err := digestAt(a, name)
		if err != nil {
			return false, err
		}
		second, err := digestAt(b, name)
		return first == second, err
	case infos[0].Mode()&fs.ModeSymlink != 0:
		first, err := a.Readlink(name)
		if err != nil {
			return false, err
		}
		second, err := b.Readlink(name)
		return first == second, err
	}
	return true, nil
}

// seeds plans which paths that are the VM's own are added.
type seeds struct {
	rule Seeding
	// omitted are the new paths below each directory that is in use.
	omitted map[string][]string
}

// add reports whether a new path of the release is added to the VM.
func (s *seeds) add(name string) (bool, error) {
	directory, err := s.rule.InUse(name)
	if err != nil || directory == "" {
		return err == nil, err
	}
	if s.omitted == nil {
		s.omitted = map[string][]string{}
	}
	s.omitted[directory] = append(s.omitted[directory], name)
	return false, nil
}

// conflicts describes what was omitted, with one line for each directory.
func (s *seeds) conflicts() (conflicts []Conflict) {
	for directory, names := range s.omitted {
		more := ""
		if len(names) > 1 {
			more = fmt.Sprintf(" and %d more", len(names)-1)
		}
		conflicts = append(conflicts, Conflict{
			Path: directory, Kind: InUse,
			Reason: fmt.Sprintf("the release adds /%s%s; not added, because the directory is in use here", slices.Min(names), more),
		})
	}
	return sortConflicts(conflicts)
}

// lstatBelow returns the state of a file, nil if there is none. It does not read the file: what is the VM's own may be
// large. Behind a symbolic link that leads out of the root there is none either; Seeding sees the link.
func lstatBelow(root *os.Root, name string) (fs.FileInfo, error) {
	info, err := root.Lstat(name)
	if err == nil {
		return info, nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil //nolint:nilnil // the contract: there is none
	}
	if plain, plainErr := plainParents(root, name); plainErr == nil && !plain {
		return nil, nil //nolint:nilnil // the contract
	}
	return nil, err
}

// seed plans what happens to a path that is the VM's own.
func (p *planner) seed(d Difference) error {
	if d.Old != nil || d.New == nil || owned(d.Path) {
		return nil
	}
	if info, err := lstatBelow(p.live, d.Path); err != nil || info != nil {
		return err
	}
	if add, err := p.seeds.add(d.Path); err != nil || !add {
		return err
	}
	if d.New.Type == tree.Regular && d.New.Size > maxFile {
		p.conflict(d.Path, TooLarge, fmt.Sprintf("added by the release, with %d bytes too large for a running system; the next boot adds it", d.New.Size))
		return nil
	}
	p.write(d, nil)
	return nil
}

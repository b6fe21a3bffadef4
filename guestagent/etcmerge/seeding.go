package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

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
	"var", "var/backups", "var/cache", "var/lib", "var/lib/private", "var/local", "var/log", "var/mail",
	"var/spool", "var/tmp", "var/www",
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

// asIn returns Seeding.Delivered for a VM whose root is live and that has had the stack of the baseline.
func asIn(live *os.Root, old *Baseline) func(directory string) (bool, error) {
	delivered := map[string]map[string]*tree.Entry{}
	for i := range old.entries {
		entry := &old.entries[i]
		directory := path.Dir(entry.Path)
		if delivered[directory] == nil {
			delivered[directory] = map[string]*tree.Entry{}
		}
		delivered[directory][path.Base(entry.Path)] = entry
		if entry.Type == tree.Directory && delivered[entry.Path] == nil {
			delivered[entry.Path] = map[string]*tree.Entry{}
		}
	}
	return func(directory string) (bool, error) {
		info, err := lstatBelow(live, directory)
		if err != nil || info == nil {
			return err == nil, err
		}
		if !info.IsDir() {
			return false, nil
		}
		there, had := delivered[directory]
		if !had && path.Dir(directory) != "." { // the baseline does not list the top itself
			return false, nil
		}
		here, err := namesIn(live, directory)
		if err != nil || len(here) != len(there) {
			return false, err
		}
		for _, name := range here {
			if there[name] == nil {
				return false, nil
			}
			same, err := sameFile(live, there[name])
			if err != nil || !same {
				return false, err
			}
		}
		return true, nil
	}
}

// sameFile compares a file of the VM by type and size, and by content if these are the same.
func sameFile(live *os.Root, delivered *tree.Entry) (bool, error) {
	info, err := live.Lstat(delivered.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // removed meanwhile
	}
	if err != nil {
		return false, err
	}
	switch delivered.Type {
	case tree.Directory:
		return info.IsDir(), nil
	case tree.Regular:
		if !info.Mode().IsRegular() || info.Size() != delivered.Size || info.Size() > maxFile {
			return false, nil
		}
	}
	here, err := entryAt(live, delivered.Path)
	if err != nil || here == nil {
		return false, err
	}
	return here.Type == delivered.Type && here.Link == delivered.Link && here.Digest == delivered.Digest, nil
}

// seeds plans which paths that are the VM's own are added.
type seeds struct {
	rule Seeding
	// omitted are the new paths below each directory that is in use.
	omitted map[string][]string
	// kept are the paths that the VM has, and of which the release has another version now.
	kept []string
}

// add reports whether a new path of the release is added to the VM.
func (s *seeds) add(name string) (bool, error) {
	directory, err := s.rule.InUse(name)
	if err != nil || directory == "" {
		return err == nil, err
	}
	s.omit(directory, name)
	return false, nil
}

func (s *seeds) omit(directory, name string) {
	if s.omitted == nil {
		s.omitted = map[string][]string{}
	}
	s.omitted[directory] = append(s.omitted[directory], name)
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
			Reason: fmt.Sprintf("the release adds /%s%s; not added, because the directory is in use here",
				slices.Min(names), more),
		})
	}
	slices.Sort(s.kept)
	for i, name := range s.kept {
		conflict := Conflict{Path: name, Kind: Kept,
			Reason: "it stays as this VM has it, though the release has another version"}
		if i == maxKept {
			conflict.Reason += fmt.Sprintf("; so do %d more", len(s.kept)-maxKept-1)
		}
		conflicts = append(conflicts, conflict)
		if i == maxKept {
			break
		}
	}
	return sortConflicts(conflicts)
}

const (
	// maxKept bounds how many paths that stay an outcome names.
	maxKept = 10
	// maxCompared bounds a file that is compared with the release's to report that it stays, in bytes.
	maxCompared = 1 << 20
)

// expendable reports whether nobody has to hear that a path stays, or is not added: programs make it again, or it is
// what tools of packages note for themselves while they install.
func expendable(name string) bool {
	tops := []string{"var/cache/", "var/log/", "var/tmp/", "var/lib/apt/", "var/lib/systemd/deb-systemd-"}
	return slices.ContainsFunc(tops, func(top string) bool { return strings.HasPrefix(name, top) })
}

// stays notes a path of the VM's own that the release has changed.
func (p *planner) stays(d Difference) error {
	if d.New == nil || d.New.Type != tree.Regular || expendable(d.Path) {
		return nil
	}
	info, err := lstatBelow(p.live, d.Path)
	if err != nil || info == nil || !info.Mode().IsRegular() {
		return err
	}
	if info.Size() == d.New.Size && info.Size() <= maxCompared {
		digest, err := digestAt(p.live, d.Path)
		if err != nil || digest == d.New.Digest {
			return err
		}
	}
	p.seeds.kept = append(p.seeds.kept, d.Path)
	return nil
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
	if owned(d.Path) || d.New == nil {
		return nil
	}
	if d.Old != nil {
		return p.stays(d)
	}
	if info, err := lstatBelow(p.live, d.Path); err != nil || info != nil {
		return err
	}
	if mounted, err := p.carrier.foreignMount(p.live, d.Path); err != nil {
		return err
	} else if mounted != "" {
		p.seeds.omit(mounted, d.Path)
		return nil
	}
	if expendable(d.Path) {
		if directory, err := p.seeds.rule.InUse(d.Path); err != nil || directory != "" {
			return err
		}
	}
	if add, err := p.seeds.add(d.Path); err != nil || !add {
		return err
	}
	p.write(d, nil)
	return nil
}

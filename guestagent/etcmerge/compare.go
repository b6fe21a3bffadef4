package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Compare returns what differs below /etc between the trees of two stacks, parents first. It is for a boot, which has
// no contents lists, and reads every file.
func Compare(old, new string) (differences []Difference, err error) {
	var found [2]map[string]*tree.Entry
	for i, name := range []string{old, new} {
		if found[i], err = readEtc(name); err != nil {
			return nil, fmt.Errorf("compare /etc: %w", err)
		}
	}
	paths := map[string]bool{}
	for _, entries := range found {
		for name := range entries {
			paths[name] = true
		}
	}
	for name := range paths {
		if was, is := found[0][name], found[1][name]; !alike(was, is) {
			differences = append(differences, NewDifference(name, was, is))
		}
	}
	slices.SortFunc(differences, func(a, b Difference) int { return tree.Compare(a.Path, b.Path) })
	return differences, nil
}

// readEtc reads all entries below the etc directory of a tree.
func readEtc(name string) (entries map[string]*tree.Entry, err error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	entries = map[string]*tree.Entry{}
	return entries, readBelow(root, "etc", entries)
}

// readBelow reads all entries below a directory. A missing directory is empty.
func readBelow(root *os.Root, directory string, entries map[string]*tree.Entry) error {
	names, err := namesIn(root, directory)
	if err != nil {
		return err
	}
	for _, name := range names {
		name = path.Join(directory, name)
		entry, err := entryAt(root, name)
		if err != nil {
			return err
		}
		entries[name] = entry
		if entry != nil && entry.Type == tree.Directory {
			if err := readBelow(root, name, entries); err != nil {
				return err
			}
		}
	}
	return nil
}

func namesIn(root *os.Root, directory string) (names []string, err error) {
	opened, err := root.Open(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	return opened.Readdirnames(-1)
}

package etcmerge

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

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

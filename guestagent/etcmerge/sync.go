package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// syncPaths makes last what was made of paths below a root: content, owner and mode of what is there, and that nothing is where
// nothing is. Only these are written. To sync the whole file system is simpler, and writes all that the VM's services have
// not written yet, which can be gigabytes.
func syncPaths(root *os.Root, names []string) error {
	var all []string
	seen := map[string]bool{}
	for _, name := range names {
		for _, one := range []string{name, path.Dir(name)} {
			if !seen[one] {
				seen[one] = true
				all = append(all, one)
			}
		}
	}
	// First the kernel is told to begin writing all of them. Where blocks are allocated when they are written, as in ext4, one commit of
	// its journal then serves all, and otherwise each sync would have its own. Other ways to say so do not reach through an overlay.
	for _, name := range all {
		err := withOpen(root, name, func(file *os.File) error { return unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED) })
		if err != nil {
			return err
		}
	}
	for _, name := range all {
		if err := withOpen(root, name, (*os.File).Sync); err != nil {
			return err
		}
	}
	return nil
}

// withOpen does something to a file or directory, and nothing where there is none: what is made of a link is in its directory.
func withOpen(root *os.Root, name string, act func(*os.File) error) (err error) {
	plain, err := plainParents(root, name)
	if err != nil || !plain {
		return err
	}
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil
	case err != nil:
		return err
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil
	}
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may have become a pipe meanwhile
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := act(file); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

// syncSteps is syncPaths of what steps lead to.
func syncSteps(root *os.Root, steps []step) error {
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.Path
	}
	return syncPaths(root, names)
}

// syncDirectory makes a rename in the directory last.
func syncDirectory(name string) (err error) {
	directory, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	if err := directory.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

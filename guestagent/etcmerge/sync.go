package etcmerge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// syncer makes last what is written below a root. Its zero value is the kernel's fsync(2); tests put their own in its place.
//
// To sync the whole file system is simpler, and writes all that the VM's services have not written yet, which can be gigabytes.
type syncer struct {
	one func(root *os.Root, name string) error
}

// files makes the content, owner and mode of regular files last. Where there is none, nothing is done.
func (s syncer) files(ctx context.Context, root *os.Root, names []string) error {
	// First the kernel is told to begin writing all of them. Where blocks are allocated when they are written, as in ext4, few commits
	// of its journal then serve all, and otherwise each file would have its own. Other ways to say so do not reach through an
	// overlay, and a kernel may have none: it is a hint.
	for _, name := range names {
		err := withOpen(root, name, func(file *os.File, info fs.FileInfo) error {
			if info.Mode().IsRegular() {
				_ = unix.Fadvise(int(file.Fd()), 0, 0, unix.FADV_DONTNEED)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.each(ctx, root, names)
}

// directories makes last what directories hold and are: of each path, of it if it is one, and of the one that it is in. What was made
// of a link is in its directory, and ext4 commits with a directory all that was done to any before.
func (s syncer) directories(ctx context.Context, root *os.Root, names []string) error {
	var all []string
	seen := map[string]bool{}
	for _, name := range names {
		for _, one := range []string{name, path.Dir(name)} {
			if seen[one] {
				continue
			}
			seen[one] = true
			info, err := plainAt(root, one)
			if err != nil {
				return fmt.Errorf("sync %s: %w", one, err)
			}
			if info != nil && info.IsDir() {
				all = append(all, one)
			}
		}
	}
	return s.each(ctx, root, all)
}

func (s syncer) each(ctx context.Context, root *os.Root, names []string) error {
	one := s.one
	if one == nil {
		one = syncOne
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("sync %s: %w", name, err)
		}
		if err := one(root, name); err != nil {
			return fmt.Errorf("sync %s: %w", name, err)
		}
	}
	return nil
}

func syncOne(root *os.Root, name string) error {
	return withOpen(root, name, func(file *os.File, _ fs.FileInfo) error { return file.Sync() })
}

// plainAt tells of a regular file or a directory; nil where there is none, or where a directory on the way is a link: what lies there
// is this VM's own.
func plainAt(root *os.Root, name string) (fs.FileInfo, error) {
	plain, err := plainParents(root, name)
	if err != nil || !plain {
		return nil, err
	}
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil //nolint:nilnil // nothing there is an answer
	case err != nil:
		return nil, err
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil, nil //nolint:nilnil // the same
	}
	return info, nil
}

// withOpen does something to what plainAt tells of, and nothing where that is nothing.
func withOpen(root *os.Root, name string, act func(*os.File, fs.FileInfo) error) (err error) {
	info, err := plainAt(root, name)
	if err != nil || info == nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may have become a pipe meanwhile
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if info, err = file.Stat(); err != nil || !info.IsDir() && !info.Mode().IsRegular() {
		return err
	}
	return act(file, info)
}

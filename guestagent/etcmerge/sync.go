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

// syncer syncs files and directories below a root. Its zero value uses fsync(2); tests replace that.
//
// Syncing the whole file system would be simpler, but it also writes the dirty pages of the VM's services, which can be
// gigabytes.
type syncer struct {
	one func(root *os.Root, name string) error
}

// files syncs the content, owner and mode of regular files. Paths that are none are skipped.
func (s syncer) files(ctx context.Context, root *os.Root, names []string) error {
	// First the kernel is asked to start writing all of them. ext4 allocates blocks when it writes, so a few commits of
	// its journal then serve all files, where each file would otherwise need its own. Other calls with this effect do
	// not reach through an overlay. It is only a hint, so errors do not matter.
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

// directories syncs, for each path, the directory that contains it, and the path itself if it is a directory. That
// covers symbolic links, too: they are entries of their directory, and ext4 commits all earlier changes together with
// it.
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

// plainAt returns the state of a regular file or a directory; nil if there is none, or if a parent is a symbolic link:
// what is behind it belongs to this VM.
func plainAt(root *os.Root, name string) (fs.FileInfo, error) {
	plain, err := plainParents(root, name)
	if err != nil || !plain {
		return nil, err
	}
	info, err := root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return nil, nil //nolint:nilnil // the contract: there is none
	case err != nil:
		return nil, err
	case !info.IsDir() && !info.Mode().IsRegular():
		return nil, nil //nolint:nilnil // the contract
	}
	return info, nil
}

// withOpen opens a regular file or a directory for act. It does nothing if plainAt returns nil.
func withOpen(root *os.Root, name string, act func(*os.File, fs.FileInfo) error) (err error) {
	info, err := plainAt(root, name)
	if err != nil || info == nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // O_NONBLOCK: it may have become a pipe meanwhile
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

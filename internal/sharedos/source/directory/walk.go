package directory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// file is a file that walk visits.
type file struct {
	// path is its path in the tree.
	path string
	stat unix.Stat_t
	// dir is a descriptor of its directory, and name its name there. Both are valid until visit returns.
	dir  int
	name string
}

// walk visits a directory, which has the path p in the tree, and everything below it: each directory before its files,
// and names in the order of their bytes. Directories for which skip returns true are visited but not entered.
//
// It follows no symbolic link and opens everything relative to descriptors, so nobody can redirect it to another place.
func walk(ctx context.Context, root *os.File, p string, skip func(p string) bool, visit func(file) error) error {
	w := walker{ctx: ctx, skip: skip, visit: visit}
	at := file{path: p, dir: int(root.Fd()), name: "."}
	if err := unix.Fstat(at.dir, &at.stat); err != nil {
		return &os.PathError{Op: "stat", Path: root.Name(), Err: err}
	}
	if err := visit(at); err != nil {
		return wrap(at.path, err)
	}
	return w.enter(at)
}

type walker struct {
	ctx   context.Context
	skip  func(p string) bool
	visit func(file) error
}

func (w walker) enter(at file) (err error) {
	fd, err := unix.Openat(at.dir, at.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap(at.path, os.NewSyscallError("open", err))
	}
	dir := os.NewFile(uintptr(fd), at.path)
	defer func() { err = errors.Join(err, dir.Close()) }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return wrap(at.path, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		next := file{path: name, dir: fd, name: name}
		if at.path != tree.Root {
			next.path = at.path + "/" + name
		}
		if err := unix.Fstatat(fd, name, &next.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return wrap(next.path, os.NewSyscallError("stat", err))
		}
		if err := w.visit(next); err != nil {
			return wrap(next.path, err)
		}
		if next.stat.Mode&unix.S_IFMT != unix.S_IFDIR || w.skip(next.path) {
			continue
		}
		if err := w.enter(next); err != nil {
			return err
		}
	}
	return nil
}

func wrap(p string, err error) error { return fmt.Errorf("%q: %w", p, err) }

// identity differs after every change of the file: a rename, or a change of extended attributes, also sets ctime.
func (f file) identity() cache.Identity {
	return cache.Identity{
		Device: f.stat.Dev, Inode: f.stat.Ino, Size: f.stat.Size,
		Modified: f.stat.Mtim.Nano(), Changed: f.stat.Ctim.Nano(),
	}
}

// entry describes the file by its inode: without link target, extended attributes and digest. A socket, which no tree
// can contain, has the type 0.
func (f file) entry(owners Owners) (tree.Entry, error) {
	e := tree.Entry{Path: f.path, Mode: f.stat.Mode & 0o7777, ModTime: tarstream.ModTime(time.Unix(f.stat.Mtim.Unix()))}
	switch f.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = tree.Directory
	case unix.S_IFREG:
		e.Type, e.Size = tree.Regular, f.stat.Size
	case unix.S_IFLNK:
		e.Type, e.Mode = tree.Symlink, 0o777
	case unix.S_IFCHR:
		e.Type = tree.CharDevice
	case unix.S_IFBLK:
		e.Type = tree.BlockDevice
	case unix.S_IFIFO:
		e.Type = tree.FIFO
	}
	if e.Type == tree.CharDevice || e.Type == tree.BlockDevice {
		e.Major, e.Minor = unix.Major(f.stat.Rdev), unix.Minor(f.stat.Rdev)
	}
	if err := tree.CheckPath(f.path); err != nil {
		return e, fmt.Errorf("%w: %w", err, source.ErrRefused)
	}
	var err error
	e.UID, e.GID, err = owners.of(f.stat.Uid, f.stat.Gid)
	return e, err
}

// readLink adds the target of a symbolic link to its entry.
func (f file) readLink(e *tree.Entry) error {
	buf := make([]byte, tree.MaxPath+1)
	n, err := unix.Readlinkat(f.dir, f.name, buf)
	if err != nil {
		return os.NewSyscallError("readlink", err)
	}
	if n == 0 || n > tree.MaxPath {
		return fmt.Errorf("symbolic link without a valid target: %w", source.ErrRefused)
	}
	e.Link = string(buf[:n])
	return nil
}

// localXattrs belong to this machine and are not shared: labels of its security policy, and signatures with its keys.
var localXattrs = []string{"security.selinux", "security.ima", "security.evm", "security.SMACK64"}

// xattrs returns the extended attributes that this process may read; nil if there are none.
func (f file) xattrs() (map[string]string, error) {
	// Before Linux 6.13, no system call takes a directory and a name.
	at := path.Join("/proc/self/fd", fmt.Sprint(f.dir), f.name)
	list, err := readAll(func(buf []byte) (int, error) { return unix.Llistxattr(at, buf) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var all map[string]string
	size := 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if slices.Contains(localXattrs, name) {
			continue
		}
		if strings.Contains(name, "=") {
			return nil, fmt.Errorf("has the attribute %q, which no tar header can hold: %w", name, source.ErrRefused)
		}
		value, err := readAll(func(buf []byte) (int, error) { return unix.Lgetxattr(at, name, buf) })
		if err != nil {
			return nil, os.NewSyscallError("getxattr "+name, err)
		}
		if size += len(name) + len(value); size > tarstream.MaxXattrs {
			return nil, fmt.Errorf("has more than %d bytes of attributes: %w", tarstream.MaxXattrs, source.ErrLimit)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = string(value)
	}
	return all, nil
}

// readAll calls read with larger and larger buffers until the value fits. xattr(7) bounds its size.
func readAll(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && size < tarstream.MaxXattrs {
			continue
		}
		return buf[:max(n, 0)], err
	}
}

// read passes the content of a regular file to use. It returns source.ErrChanged unless the file is the one that was
// visited, before and after.
func (f file) read(use func(io.Reader) error) (err error) {
	// O_NONBLOCK: a named pipe may have replaced the file, and opening it would wait for its writer.
	fd, err := unix.Openat(f.dir, f.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	opened := os.NewFile(uintptr(fd), f.name)
	defer func() { err = errors.Join(err, opened.Close()) }()
	checkUnchanged := func() error {
		now := f
		if err := unix.Fstat(fd, &now.stat); err != nil {
			return os.NewSyscallError("stat", err)
		}
		if now.identity() != f.identity() {
			return source.ErrChanged
		}
		return nil
	}
	if err := checkUnchanged(); err != nil {
		return err
	}
	content := &io.LimitedReader{R: opened, N: f.stat.Size}
	if err := use(content); err != nil {
		return err
	}
	if content.N != 0 {
		return source.ErrChanged
	}
	return checkUnchanged()
}

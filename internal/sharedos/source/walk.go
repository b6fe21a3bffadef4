package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// onDisk is a file of a directory that is walked.
type onDisk struct {
	// path is the one in the tree.
	path string
	stat unix.Stat_t
	// dir is the descriptor of the directory that holds it under name; both are good until visit returns.
	dir  int
	name string
}

// walkDir visits a directory, whose path in the tree is given, and all that is in it, each directory before what it
// holds, names in the order of bytes. It follows no symbolic link and goes by descriptors from root on, so that nobody
// can lead it elsewhere. Directories for which skip is true are visited and not entered.
func walkDir(ctx context.Context, root *os.File, p string, skip func(p string) bool, visit func(onDisk) error) error {
	w := walker{ctx: ctx, skip: skip, visit: visit}
	at := onDisk{path: p, dir: int(root.Fd()), name: "."}
	if err := unix.Fstat(at.dir, &at.stat); err != nil {
		return &os.PathError{Op: "stat", Path: root.Name(), Err: err}
	}
	if err := visit(at); err != nil {
		return about(at.path, err)
	}
	return w.enter(at)
}

type walker struct {
	ctx   context.Context
	skip  func(p string) bool
	visit func(onDisk) error
}

func (w walker) enter(at onDisk) (err error) {
	fd, err := unix.Openat(at.dir, at.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return about(at.path, os.NewSyscallError("open", err))
	}
	dir := os.NewFile(uintptr(fd), at.path)
	defer func() { err = errors.Join(err, dir.Close()) }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return about(at.path, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		next := onDisk{path: name, dir: fd, name: name}
		if at.path != tree.Root {
			next.path = at.path + "/" + name
		}
		if err := unix.Fstatat(fd, name, &next.stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return about(next.path, os.NewSyscallError("stat", err))
		}
		if err := w.visit(next); err != nil {
			return about(next.path, err)
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

// fileError names the file of a directory that a failure is about.
type fileError struct {
	path string
	err  error
}

func (e *fileError) Error() string { return fmt.Sprintf("%q: %s", e.path, e.err) }
func (e *fileError) Unwrap() error { return e.err }

func about(p string, err error) error { return &fileError{p, err} }

// errChanged means that a file is not what it was a moment ago.
var errChanged = errors.New("it changed while it was read: try again when nothing writes to it")

// identity tells one state of the file from another without reading it. Whatever is done to a file sets its time of
// change, extended attributes and moves included.
func (f onDisk) identity() inode {
	return inode{
		device: f.stat.Dev, number: f.stat.Ino, size: f.stat.Size,
		mtime: f.stat.Mtim.Nano(), ctime: f.stat.Ctim.Nano(),
	}
}

// inode is one state of a file on disk.
type inode struct {
	device, number uint64
	size           int64
	mtime, ctime   int64
}

// settled reports whether the file changed long enough ago for its times to tell a later change from this one.
func (i inode) settled(now time.Time) bool {
	return now.UnixNano()-max(i.mtime, i.ctime) >= settled.Nanoseconds()
}

// entry describes the file by what its inode says: without link target, extended attributes and digest. The type of
// a file that no tree can hold, or no directory source, is 0.
func (f onDisk) entry(owners Owners) (tree.Entry, error) {
	e := tree.Entry{Path: f.path, Mode: f.stat.Mode & 0o7777, ModTime: modTime(time.Unix(f.stat.Mtim.Unix()))}
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
		return e, fmt.Errorf("%w: %w", err, ErrRefused)
	}
	var err error
	e.UID, e.GID, err = owners.owner(f.stat.Uid, f.stat.Gid)
	return e, err
}

// attach reads what the inode does not say: the target of a symbolic link and extended attributes.
func (f onDisk) attach(e *tree.Entry) (err error) {
	if e.Type == tree.Symlink {
		buf := make([]byte, tree.MaxPath+1)
		n, err := unix.Readlinkat(f.dir, f.name, buf)
		if err != nil {
			return os.NewSyscallError("readlink", err)
		}
		if n == 0 || n > tree.MaxPath {
			return fmt.Errorf("symbolic link without a valid target: %w", ErrRefused)
		}
		e.Link = string(buf[:n])
	}
	e.Xattrs, err = f.xattrs()
	return err
}

// notOfTheTree are attributes that the machine gives to files and that no release shares: labels of its own security
// policy, and signatures with its own keys.
var notOfTheTree = []string{"security.selinux", "security.ima", "security.evm", "security.SMACK64"}

// xattrs reads the extended attributes that the user who runs this may see; nil if there are none.
func (f onDisk) xattrs() (map[string]string, error) {
	// No system call before Linux 6.13 takes a directory and a name.
	at := path.Join("/proc/self/fd", fmt.Sprint(f.dir), f.name)
	list, err := growing(func(buf []byte) (int, error) { return unix.Llistxattr(at, buf) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var all map[string]string
	size := 0
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if slices.Contains(notOfTheTree, name) {
			continue
		}
		if strings.Contains(name, "=") {
			return nil, fmt.Errorf("has the attribute %q, which no tar header can hold: %w", name, ErrRefused)
		}
		value, err := growing(func(buf []byte) (int, error) { return unix.Lgetxattr(at, name, buf) })
		if err != nil {
			return nil, os.NewSyscallError("getxattr "+name, err)
		}
		if size += len(name) + len(value); size > maxXattrs {
			return nil, fmt.Errorf("has more than %d bytes of attributes: %w", maxXattrs, ErrLimit)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = string(value)
	}
	return all, nil
}

// growing reads with a buffer that is large enough. What is read may grow between two calls; xattr(7) bounds it.
func growing(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		if errors.Is(err, unix.ERANGE) && size < maxXattrs {
			continue
		}
		return buf[:max(n, 0)], err
	}
}

// read passes the content of a regular file to use. The file must be the one that was found, before and after.
func (f onDisk) read(use func(io.Reader) error) (err error) {
	// Not to wait for the writer of a named pipe that has taken its place.
	fd, err := unix.Openat(f.dir, f.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("open", err)
	}
	file := os.NewFile(uintptr(fd), filepath.Base(f.path))
	defer func() { err = errors.Join(err, file.Close()) }()
	same := func() error {
		now := f
		if err := unix.Fstat(fd, &now.stat); err != nil {
			return os.NewSyscallError("stat", err)
		}
		if now.identity() != f.identity() {
			return errChanged
		}
		return nil
	}
	if err := same(); err != nil {
		return err
	}
	content := &io.LimitedReader{R: file, N: f.stat.Size}
	if err := use(content); err != nil {
		return err
	}
	if content.N != 0 {
		return errChanged
	}
	return same()
}

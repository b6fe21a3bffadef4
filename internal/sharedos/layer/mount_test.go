package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// memory is the content of a tree in memory.
type memory map[tree.Digest][]byte

func (m memory) Open(digest tree.Digest) (io.ReadCloser, error) {
	content, ok := m[digest]
	if !ok {
		return nil, fmt.Errorf("no content %s", digest)
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

func (m memory) add(content []byte) tree.Digest {
	digest := tree.Sum(content)
	m[digest] = content
	return digest
}

// fataler is what both *testing.T and *rapid.T are.
type fataler interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// workshop writes layers and mounts them below a directory of its own.
type workshop struct {
	t      fataler
	dir    string
	count  int
	mounts []string
}

func newWorkshop(t fataler) *workshop {
	t.Helper()
	dir, err := os.MkdirTemp("", "layer")
	if err != nil {
		t.Fatal(err)
	}
	return &workshop{t: t, dir: dir}
}

// close undoes all mounts and removes all files.
func (w *workshop) close() error {
	var errs []error
	for i := len(w.mounts) - 1; i >= 0; i-- {
		errs = append(errs, unix.Unmount(w.mounts[i], 0))
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

func (w *workshop) path(kind string) string {
	w.count++
	return filepath.Join(w.dir, fmt.Sprintf("%s%d", kind, w.count))
}

func (w *workshop) directory(kind string) string {
	w.t.Helper()
	path := w.path(kind)
	if err := os.Mkdir(path, 0o755); err != nil {
		w.t.Fatal(err)
	}
	return path
}

// write writes entries as a layer, and has fsck.erofs check it.
func (w *workshop) write(entries []tree.Entry, content tree.Content) (string, release.Layer) {
	w.t.Helper()
	path := w.path("layer")
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		w.t.Fatal(err)
	}
	layer, err := Write(context.Background(), &tree.Tree{Entries: entries, Content: content}, file)
	if err := errors.Join(err, file.Close()); err != nil {
		w.t.Fatal(err)
	}
	if output, err := exec.Command("fsck.erofs", path).CombinedOutput(); err != nil {
		w.t.Fatalf("fsck.erofs: %v: %s", err, output)
	}
	if err := libraryReads(path, entries); err != nil {
		w.t.Fatalf("go-erofs: %v", err)
	}
	return path, layer
}

// libraryReads has another reader than the kernel's find every entry of an image, and the content of every file.
func libraryReads(path string, entries []tree.Entry) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	image, err := goerofs.Open(file)
	if err != nil {
		return err
	}
	seen := 0
	err = fs.WalkDir(image, ".", func(string, fs.DirEntry, error) error { seen++; return nil })
	if err != nil || seen != len(entries) {
		return errors.Join(err, fmt.Errorf("%d entries instead of %d", seen, len(entries)))
	}
	for i := range entries {
		if e := &entries[i]; e.Type == tree.Regular {
			content, err := fs.ReadFile(image, e.Path)
			if err != nil {
				return err
			}
			if tree.Sum(content) != e.Digest {
				return fmt.Errorf("the content of %q differs", e.Path)
			}
		}
	}
	return nil
}

// mount mounts a layer's file.
func (w *workshop) mount(path string) string {
	w.t.Helper()
	at := w.directory("mount")
	if err := unix.Mount(path, at, "erofs", unix.MS_RDONLY, ""); err != nil {
		w.t.Fatalf("mount erofs %s: %v", path, err)
	}
	w.mounts = append(w.mounts, at)
	return at
}

// overlay mounts directories, bottom to top, over each other.
func (w *workshop) overlay(lower ...string) string {
	w.t.Helper()
	at := w.directory("overlay")
	if err := mountOverlay(at, append([]string{w.directory("empty")}, lower...)); err != nil {
		w.t.Fatalf("mount overlay of %q: %v", lower, err)
	}
	w.mounts = append(w.mounts, at)
	return at
}

func mountOverlay(at string, lower []string) (err error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for i := len(lower) - 1; i >= 0; i-- {
		// By descriptor: fsconfig takes no string of more than 255 bytes.
		dir, err := unix.Open(lower[i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %q: %w", lower[i], err)
		}
		err = unix.FsconfigSetFd(fd, "lowerdir+", dir)
		if err := errors.Join(err, unix.Close(dir)); err != nil {
			return fmt.Errorf("lowerdir+ %q: %w", lower[i], err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return err
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(mount)) }()
	return unix.MoveMount(mount, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// walk reads all that is below dir back into entries.
func walk(dir string) ([]tree.Entry, error) {
	var entries []tree.Entry
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		e, err := readEntry(path)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		e.Path = tree.Root
		if path != dir {
			e.Path = strings.TrimPrefix(path, dir+"/")
		}
		entries = append(entries, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	t, err := tree.New(entries, nil)
	if err != nil {
		return nil, err
	}
	return t.Entries, nil
}

func readEntry(path string) (tree.Entry, error) {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return tree.Entry{}, err
	}
	e := tree.Entry{Mode: stat.Mode & 0o7777, UID: stat.Uid, GID: stat.Gid}
	var err error
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = tree.Directory
	case unix.S_IFREG:
		e.Type, e.Size = tree.Regular, stat.Size
		e.Digest, err = digestFile(path)
	case unix.S_IFLNK:
		e.Type, e.Mode = tree.Symlink, 0o777
		e.Link, err = os.Readlink(path)
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Type = tree.CharDevice
		if stat.Mode&unix.S_IFMT == unix.S_IFBLK {
			e.Type = tree.BlockDevice
		}
		e.Major, e.Minor = unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
	case unix.S_IFIFO:
		e.Type = tree.FIFO
	}
	if err != nil {
		return e, err
	}
	e.Xattrs, err = readXattrs(path)
	return e, err
}

func digestFile(path string) (digest tree.Digest, err error) {
	file, err := os.Open(path)
	if err != nil {
		return digest, err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, file)
	copy(digest[:], sum.Sum(nil))
	return digest, errors.Join(err, file.Close())
}

func readXattrs(path string) (map[string]string, error) {
	buffer := make([]byte, 128<<10)
	n, err := unix.Llistxattr(path, buffer)
	if err != nil {
		return nil, fmt.Errorf("llistxattr: %w", err)
	}
	xattrs := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buffer[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buffer)
		if err != nil {
			return nil, fmt.Errorf("lgetxattr %s: %w", name, err)
		}
		xattrs[name] = string(buffer[:n])
	}
	return xattrs, nil
}

// requireEqual compares what was read back with what it should be.
func requireEqual(t fataler, what string, want, got []tree.Entry) {
	t.Helper()
	byPath := make(map[string]*tree.Entry, len(want))
	for i := range want {
		byPath[want[i].Path] = &want[i]
	}
	for i := range got {
		e := &got[i]
		was := byPath[e.Path]
		if was == nil {
			t.Fatalf("%s: %q should not be there: %+v", what, e.Path, *e)
		}
		if !tree.Equal(*was, *e) {
			t.Fatalf("%s: %q:\nwant %+v\ngot  %+v", what, e.Path, *was, *e)
		}
		delete(byPath, e.Path)
	}
	for path := range byPath {
		t.Fatalf("%s: %q is missing", what, path)
	}
}

var _ fataler = (*testing.T)(nil)

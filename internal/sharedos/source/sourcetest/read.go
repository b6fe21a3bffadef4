package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Read reads the stream of a source as a tree, which need not be bootable. The returned function frees its contents.
func Read(t T, src source.Source) (*tree.Tree, func() error, error) {
	t.Helper()
	ctx := context.Background()
	stream, err := src.Open(ctx, nil)
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "spool-")
	Must(t, err)
	tr, closer, err := tarstream.Read(ctx, stream, dir, source.Limits{})
	if err = errors.Join(stream.Close(), err, os.Remove(dir)); err != nil {
		return nil, nil, err
	}
	return tr, closer.Close, nil
}

// ReadSystem reads a source, and frees its contents at the end of the test.
func ReadSystem(t *testing.T, src source.Source, progress source.Progress) (*rootfs.System, error) {
	t.Helper()
	s, err := rootfs.Read(t.Context(), src, t.TempDir(), progress)
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return s, err
}

// ReadTar reads a tar stream, and frees its contents at the end of the test.
func ReadTar(t *testing.T, stream []byte) *tree.Tree {
	t.Helper()
	tr, closer, err := tarstream.Read(t.Context(), bytes.NewReader(stream), t.TempDir(), source.Limits{})
	Must(t, err)
	t.Cleanup(func() {
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
	})
	return tr
}

// CloseEarly closes the stream of a source that was read only in part. So the goroutine that writes it must end.
func CloseEarly(t *testing.T, src source.Source) {
	t.Helper()
	stream, err := src.Open(t.Context(), nil)
	Must(t, err)
	_, err = stream.Read(make([]byte, 1))
	Must(t, err)
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}

// WriteOld writes a file that was last modified an hour ago, so its digest is cached.
func WriteOld(t *testing.T, path string, data []byte) {
	t.Helper()
	Must(t, os.WriteFile(path, data, 0o600))
	past := time.Now().Add(-time.Hour)
	Must(t, os.Chtimes(path, past, past))
}

// LayOut writes a tree into an empty directory, with owners, modes, times and extended attributes.
func LayOut(t T, dir string, entries []tree.Entry, contents map[tree.Digest]string) {
	t.Helper()
	for _, e := range entries {
		at := filepath.Join(dir, e.Path)
		switch e.Type {
		case tree.Directory:
			if e.Path != tree.Root {
				Must(t, os.Mkdir(at, 0o700))
			}
		case tree.Regular:
			Must(t, os.WriteFile(at, []byte(contents[e.Digest]), 0o600))
		case tree.Symlink:
			Must(t, os.Symlink(e.Link, at))
		case tree.FIFO:
			Must(t, unix.Mkfifo(at, 0o600))
		case tree.CharDevice:
			Must(t, unix.Mknod(at, unix.S_IFCHR|0o600, int(unix.Mkdev(e.Major, e.Minor))))
		case tree.BlockDevice:
			Must(t, unix.Mknod(at, unix.S_IFBLK|0o600, int(unix.Mkdev(e.Major, e.Minor))))
		}
		Must(t, os.Lchown(at, int(e.UID), int(e.GID)))
		for name, value := range e.Xattrs {
			Must(t, unix.Lsetxattr(at, name, []byte(value), 0))
		}
		if e.Type != tree.Symlink {
			Must(t, unix.Chmod(at, e.Mode))
		}
	}
	for _, e := range slices.Backward(entries) {
		times := []unix.Timespec{{Sec: e.ModTime.Unix()}, {Sec: e.ModTime.Unix()}}
		Must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, e.Path), times, unix.AT_SYMLINK_NOFOLLOW))
	}
}

// BytesRead returns how many bytes this process has read from files.
func BytesRead(t *testing.T) (n int64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/io")
	Must(t, err)
	if _, err := fmt.Sscanf(string(text), "rchar: %d", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// Noise returns bytes that do not compress, the same ones for the same number.
func Noise(n int) string {
	b := make([]byte, n)
	state := uint32(1)
	for i := range b {
		state = state*1664525 + 1013904223
		b[i] = byte(state >> 24)
	}
	return string(b)
}

// Run runs a program that must succeed.
func Run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, output)
	}
}

// mebibytes that Ext4 has.
const ext4MiB = 24

// Ext4 returns the path of an ext4 file system with the content of a directory. It has 24 MiB.
func Ext4(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(TempDir(t), "ext4")
	Must(t, os.WriteFile(path, nil, 0o600))
	Must(t, os.Truncate(path, ext4MiB<<20))
	Run(t, "", "mkfs.ext4", "-q", "-d", dir, path)
	return path
}

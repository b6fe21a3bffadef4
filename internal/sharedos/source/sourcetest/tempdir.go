package sourcetest

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What TempDir needs of a file system in memory, in bytes and in inodes.
const (
	memoryBytes  = 2 << 30
	memoryInodes = 1_000_000
)

// TempDir returns a directory that is removed at the end of the test. It is in memory if there is enough room: creating
// and flushing files takes ten times as long on a disk.
func TempDir(t *testing.T) string {
	t.Helper()
	const memory = "/dev/shm"
	var free unix.Statfs_t
	if unix.Statfs(memory, &free) != nil || free.Type != unix.TMPFS_MAGIC ||
		free.Bavail*uint64(free.Bsize) < memoryBytes || free.Ffree < memoryInodes {
		return t.TempDir()
	}
	name := strings.ReplaceAll(t.Name(), "/", "-")
	dir, err := os.MkdirTemp(memory, name[:min(len(name), 100)]+"-")
	Must(t, err)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	const probe = "user.probe"
	if unix.Setxattr(dir, probe, nil, 0) != nil {
		return t.TempDir() // before Linux 6.6, tmpfs has no attributes of users
	}
	Must(t, unix.Removexattr(dir, probe))
	return dir
}

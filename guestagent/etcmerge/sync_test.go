package etcmerge

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// What is synced may have become anything meanwhile: a pipe that nobody writes to, a link out of the root, nothing.
func TestWhatIsSyncedMayBeAnything(t *testing.T) {
	directory := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(directory, "etc/a/b"), 0o700))
	must(t, os.WriteFile(filepath.Join(directory, "etc/a/b/file"), []byte("x"), 0o600))
	must(t, unix.Mkfifo(filepath.Join(directory, "etc/pipe"), 0o600))
	must(t, os.Symlink("/", filepath.Join(directory, "etc/out")))
	must(t, os.Symlink("nothing", filepath.Join(directory, "etc/dangling")))
	root, err := os.OpenRoot(directory)
	must(t, err)
	defer func() { must(t, root.Close()) }()
	err = syncPaths(root, []string{
		"etc/a/b/file", "etc/a/b", "etc/pipe", "etc/out", "etc/out/proc/1/mem", "etc/dangling", "etc/gone", "etc/gone/below", "etc/a/b/file/below", "new",
	})
	if err != nil {
		t.Error(err)
	}
}

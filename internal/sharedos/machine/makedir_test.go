package machine_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
)

// What is said before a directory is made is what happens when it is made, and nothing is made.
func TestADirectoryThatCannotBeMadeIsKnownBefore(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
		os.Symlink("nowhere", filepath.Join(dir, "dangling")),
		os.Symlink(dir, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	readOnly := filepath.Join(dir, "read-only")
	if err := errors.Join(os.Mkdir(readOnly, 0o700),
		unix.Mount("none", readOnly, "tmpfs", unix.MS_RDONLY, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(readOnly, 0) })
	for path, possible := range map[string]bool{
		dir: true, filepath.Join(dir, "new"): true, filepath.Join(dir, "a/b/c"): true,
		filepath.Join(dir, "link/new"): true,
		filepath.Join(dir, "file"):     false, filepath.Join(dir, "file/below"): false,
		filepath.Join(dir, "dangling"):       false,
		filepath.Join(dir, "dangling/below"): false, readOnly: false, filepath.Join(readOnly, "new"): false,
		"/dev/null/pool": false, "/proc/pool": false, "/sys/fs/pool": false,
	} {
		if err := (machine.Local{}).CheckMakeDir(t.Context(), path); (err == nil) != possible {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "new")); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s was made: %v", path, err)
		}
	}
}

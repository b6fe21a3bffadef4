package diskimage_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/diskimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// fileSystem makes a file system in a file, and has fill fill it where it is mounted. It is as small as mkfs.xfs makes
// one.
func fileSystem(t *testing.T, fill func(at string), mkfs ...string) string {
	t.Helper()
	path, at := filepath.Join(sourcetest.TempDir(t), "disk.raw"), sourcetest.TempDir(t)
	sourcetest.Must(t, os.WriteFile(path, nil, 0o600))
	sourcetest.Must(t, os.Truncate(path, 320<<20))
	sourcetest.Run(t, "", mkfs[0], append(mkfs[1:], path)...)
	device, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", path).Output()
	sourcetest.Must(t, err)
	loop := strings.TrimSpace(string(device))
	sourcetest.Must(t, unix.Mount(loop, at, strings.TrimPrefix(mkfs[0], "mkfs."), 0, ""))
	fill(at)
	sourcetest.Must(t, unix.Unmount(at, 0))
	sourcetest.Run(t, "", "losetup", "--detach", loop)
	return path
}

func TestDiskImageOfEveryFileSystem(t *testing.T) {
	dir, want := smallRoot(t)
	copied := func(at string) { sourcetest.Run(t, "", "cp", "-a", dir+"/.", at) }
	for name, c := range map[string]struct {
		mkfs []string
		fill func(at string)
	}{
		"xfs":   {[]string{"mkfs.xfs", "-q"}, copied},
		"btrfs": {[]string{"mkfs.btrfs", "-q"}, copied},
		// As openSUSE lays it out: what is mounted without a word is a subvolume.
		"btrfs with a default subvolume": {[]string{"mkfs.btrfs", "-q"}, func(at string) {
			root := filepath.Join(at, "@")
			sourcetest.Run(t, "", "btrfs", "subvolume", "create", root)
			sourcetest.Run(t, "", "btrfs", "subvolume", "set-default", root)
			sourcetest.Must(t, os.WriteFile(filepath.Join(at, "above"), nil, 0o600))
			copied(root)
		}},
		// A subvolume in another one reads like a directory.
		"btrfs with a subvolume in the root": {[]string{"mkfs.btrfs", "-q"}, func(at string) {
			sourcetest.Run(t, "", "btrfs", "subvolume", "create", filepath.Join(at, "boot"))
			copied(at)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			requireEntries(t, diskimage.Source{Path: fileSystem(t, c.fill, c.mkfs...)}, want)
		})
	}
}

// As Fedora lays it out: which subvolume is the root stands in the boot loader's configuration.
func TestABtrfsWhoseRootIsASubvolumeOfManyIsRefusedByName(t *testing.T) {
	path := fileSystem(t, func(at string) {
		for _, name := range []string{"root", "home", "var"} {
			sourcetest.Run(t, "", "btrfs", "subvolume", "create", filepath.Join(at, name))
		}
		sourcetest.Must(t, os.MkdirAll(filepath.Join(at, "root", "usr", "bin"), 0o755))
		sourcetest.Must(t, os.MkdirAll(filepath.Join(at, "root", "etc"), 0o755))
	}, "mkfs.btrfs", "-q")
	_, _, err := sourcetest.Read(t, diskimage.Source{Path: path})
	if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), `"root"`) ||
		!strings.Contains(err.Error(), "set-default") {
		t.Errorf("got error %v", err)
	}
}

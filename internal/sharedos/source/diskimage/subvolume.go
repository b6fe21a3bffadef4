package diskimage

import (
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// refuseSubvolumes refuses a btrfs that has no /usr but a directory with one. Only the configuration of the image's
// boot loader says which of its subvolumes is the root, and only its fstab says where the others belong.
func refuseSubvolumes(root *os.File) error {
	if isDirectoryAt(root, "usr") {
		return nil
	}
	names, err := root.Readdirnames(-1)
	if err != nil {
		return err
	}
	if _, err := root.Seek(0, 0); err != nil {
		return err
	}
	roots := slices.DeleteFunc(names, func(name string) bool { return !isDirectoryAt(root, path.Join(name, "usr")) })
	if len(roots) == 0 {
		return nil // package rootfs reports what the tree lacks
	}
	slices.Sort(roots)
	return fmt.Errorf(
		"its btrfs has the root file system in the subvolume %q, which is not its default: %w; mount the image and "+
			"make it that, with btrfs subvolume set-default, or make an archive of the system while it runs",
		roots, source.ErrRefused)
}

// isDirectoryAt reports whether a path relative to dir is a directory. A symbolic link to one does not count.
func isDirectoryAt(dir *os.File, p string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), p, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR
}

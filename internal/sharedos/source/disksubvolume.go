package source

import (
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// refuseSubvolumes refuses a btrfs that has no /usr, but a directory that has: only the configuration of the image's boot loader
// tells which of its subvolumes is the root, and its fstab what belongs where in it.
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
		return nil // what it lacks is told as of any other tree
	}
	slices.Sort(roots)
	return fmt.Errorf("its btrfs has the root file system in the subvolume %q, which is not its default: %w; mount the image and make it "+
		"that, with btrfs subvolume set-default, or make an archive of the system while it runs", roots, ErrRefused)
}

// isDirectoryAt reports whether a path in a directory leads to a directory, through no symbolic link at its end.
func isDirectoryAt(dir *os.File, p string) bool {
	var stat unix.Stat_t
	err := unix.Fstatat(int(dir.Fd()), p, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return err == nil && stat.Mode&unix.S_IFMT == unix.S_IFDIR
}

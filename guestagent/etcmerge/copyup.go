package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyUp has the overlay copy the files that the patterns match (Carrier.Keep) to its upper layer, where they stay as
// they are whatever the layers of the next boot have. A file that cannot be changed is skipped.
func CopyUp(root string, patterns []string) error {
	for _, pattern := range patterns {
		tops, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return fmt.Errorf("keep %s: %w", pattern, err)
		}
		for _, top := range tops {
			if !strings.HasPrefix(top, filepath.Join(root, "etc")+"/") {
				continue
			}
			if err := filepath.WalkDir(top, copyUp); err != nil {
				return fmt.Errorf("keep %s: %w", pattern, err)
			}
		}
	}
	return nil
}

// copyUp sets what a file has already: its mode, or the owner of a symbolic link. It implements fs.WalkDirFunc.
func copyUp(name string, _ fs.DirEntry, err error) error {
	var stat unix.Stat_t
	if err == nil {
		err = unix.Lstat(name, &stat)
	}
	if err == nil {
		switch stat.Mode & unix.S_IFMT {
		case unix.S_IFREG, unix.S_IFDIR:
			err = unix.Chmod(name, stat.Mode&0o7777)
		case unix.S_IFLNK:
			err = os.Lchown(name, int(stat.Uid), int(stat.Gid))
		}
	}
	if errors.Is(err, fs.ErrNotExist) || asObstacle(err) != nil {
		return nil // removed meanwhile, or not writable
	}
	return err
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// virtual are the file systems in which only the kernel makes directories that hold files.
var virtual = []int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC,
	unix.DEBUGFS_MAGIC, unix.SECURITYFS_MAGIC}

// CheckMakeDir implements Files.
func (Local) CheckMakeDir(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at := filepath.Clean(path)
	info, err := os.Stat(at)
	for ; errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR); info, err = os.Stat(at) {
		if entry, err := os.Lstat(at); err == nil && entry.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a link to what does not exist", at)
		}
		at = filepath.Dir(at)
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory: %w", at, unix.ENOTDIR)
	}
	var system unix.Statfs_t
	if err := unix.Statfs(at, &system); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	if slices.Contains(virtual, system.Type) {
		return fmt.Errorf("%s is in a file system of the kernel, which holds no files of others", at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("%s cannot be written to: %w", at, err)
	}
	return nil
}

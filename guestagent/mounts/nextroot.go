package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// AssembleNext mounts a stack at NextRoot, to which a soft-reboot switches, together with /run and the mounts below it.
// systemd itself moves /run to the next root, without the mounts below it, unless something is mounted at the next
// root's /run already (switch_root in systemd's src/shared/switch-root.c). What an earlier call left at NextRoot is
// unmounted.
//
// Call it when only systemd still runs: from here on two overlays share an upper directory, and neither sees what is
// written through the other.
func AssembleNext(ctx context.Context, root Root) error {
	if err := DropNext(); err != nil {
		return err
	}
	if err := os.Mkdir(NextRoot, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("assemble the next root: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(root.Private, root.Work), 0o700); err != nil {
		return fmt.Errorf("assemble the next root: %w", err)
	}
	err := AssembleRoot(ctx, NextRoot, root)
	if err == nil {
		err = mountRun(NextRoot)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("assemble the next root: %w", err), DropNext())
	}
	return nil
}

// DropNext unmounts the next root. It does nothing after a soft-reboot has switched to it.
func DropNext() error {
	mounted, err := isMountPoint(NextRoot)
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(NextRoot, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount the next root: %w", err)
	}
	return nil
}

// mountRun mounts /run, and the layers and the private disk below it, in the next root.
func mountRun(next string) error {
	table, err := proc.OwnMountTable()
	if err != nil {
		return err
	}
	places := []string{"/run"}
	for i := range table {
		if strings.HasPrefix(table[i].Mountpoint, RunDir+"/") {
			places = append(places, table[i].Mountpoint) // parents come before children
		}
	}
	for _, place := range places {
		fd, err := unix.OpenTree(unix.AT_FDCWD, place,
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("clone mount %s: %w", place, err)
		}
		if err := (&Detached{fd: fd}).Attach(filepath.Join(next, place)); err != nil {
			return err
		}
	}
	return nil
}

// RootDevice returns the device number of a root file system, "major:minor". Every assembled root has its own.
func RootDevice(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)), nil
}

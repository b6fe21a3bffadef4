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

// AssembleNext mounts a stack at NextRoot for a soft-reboot to switch to, with the mounts that must go along: systemd
// takes /run with it, but nothing that is mounted below (switch_root of systemd's src/shared/switch-root.c), unless
// something is mounted at the place of the next root's /run already. What an earlier call left there is taken away.
//
// Call it when nothing but the manager runs any more: two overlays share an upper directory from here on, and neither
// sees what is written through the other.
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
		err = takeAlong(NextRoot)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("assemble the next root: %w", err), DropNext())
	}
	return nil
}

// DropNext takes the next root away. The root itself is none: nothing is done after a soft-reboot has switched to it.
func DropNext() error {
	mounted, err := isMountPoint(NextRoot)
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(NextRoot, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("take the next root away: %w", err)
	}
	return nil
}

// takeAlong mounts /run in the next root, and the layers and the private disk in it.
func takeAlong(next string) error {
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
		fd, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("clone mount %s: %w", place, err)
		}
		if err := (&Detached{fd: fd}).Attach(filepath.Join(next, place)); err != nil {
			return err
		}
	}
	return nil
}

// RootDevice is the device number of the root file system, "major:minor": every assembled root has its own.
func RootDevice(path string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)), nil
}

package disks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Running implements System for this system.
type Running struct{ *units.Manager }

var _ System = Running{}

const (
	// sizePoll is short compared with the time until the guest sees a disk's new size.
	sizePoll = 20 * time.Millisecond
	// maxUsers bounds how many processes are named that use one disk.
	maxUsers = 10
)

// Disk implements System.
func (Running) Disk(ctx context.Context, serial string, size int64) (mounts.Disk, error) {
	for {
		disk, err := mounts.WaitForDisk(ctx, serial)
		if err != nil || disk.Size >= size {
			return disk, err
		}
		select {
		case <-ctx.Done():
			return disk, fmt.Errorf("disk %s has %d bytes, not %d: %w", serial, disk.Size, size, ctx.Err())
		case <-time.After(sizePoll):
		}
	}
}

// Attached implements System.
func (Running) Attached(serial string) (mounts.Disk, error) {
	attached, err := mounts.Disks()
	if err != nil {
		return mounts.Disk{}, err
	}
	return bySerial(attached, serial)
}

// bySerial finds one of the attached disks. It returns mounts.ErrNoDisk if none has the serial.
func bySerial(attached []mounts.Disk, serial string) (mounts.Disk, error) {
	at := slices.IndexFunc(attached, func(d mounts.Disk) bool { return d.Serial == serial })
	if at < 0 {
		return mounts.Disk{}, mounts.ErrNoDisk
	}
	return attached[at], nil
}

// MountedFrom implements System.
func (Running) MountedFrom(disk mounts.Disk, point string) (bool, error) {
	table, err := proc.OwnMountTable()
	if err != nil {
		return false, err
	}
	at := table.At(point)
	return at != nil && at.Device().String() == disk.Number, nil
}

// Unmount implements System.
func (Running) Unmount(point string) error { return unix.Unmount(point, unix.UMOUNT_NOFOLLOW) }

// Exclusive implements System.
func (Running) Exclusive(disk mounts.Disk) error {
	device, err := os.OpenFile(disk.Node, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	return device.Close()
}

// Users implements System.
func (Running) Users(ctx context.Context, disk mounts.Disk) []string {
	device, err := proc.ParseDevice(disk.Number, 10)
	if err != nil {
		return []string{err.Error()}
	}
	found, err := mounts.UsersOf(ctx, "/proc",
		[]mounts.Shown{{System: device.Number(), Files: []uint64{device.Number()}}}, maxUsers)
	users := processes(found)
	holders, dirErr := os.ReadDir(filepath.Join("/sys/class/block", filepath.Base(disk.Node), "holders"))
	for _, holder := range holders {
		users = append(users, "block device "+holder.Name())
	}
	if swaps, readErr := os.ReadFile("/proc/swaps"); readErr == nil &&
		slices.ContainsFunc(strings.Split(string(swaps), "\n"), func(line string) bool {
			return strings.HasPrefix(line, disk.Node)
		}) {
		users = append(users, "swap")
	}
	if dirErr != nil && !errors.Is(dirErr, fs.ErrNotExist) {
		err = errors.Join(err, dirErr)
	}
	if err != nil {
		users = append(users, err.Error())
	}
	return users
}

// processes describes the processes that use a disk. Those that only see it mounted are described if no other uses it.
func processes(found []mounts.User) []string {
	var users, seen []string
	for _, user := range found {
		text := fmt.Sprintf("process %d (%s) %s %s", user.PID, user.Command, user.How, user.Path)
		if user.Unit != "" {
			text = user.Unit + ": " + text
		}
		if user.How == mounts.SeesMounted {
			seen = append(seen, text)
		} else {
			users = append(users, text)
		}
	}
	if len(users) == 0 {
		return seen
	}
	return users
}

// Start implements System.
func (r Running) Start(ctx context.Context, unit string) error {
	_, _, err := r.Manager.Start(ctx, unit)
	if err != nil {
		return fmt.Errorf("%w: %s", err, r.Failure(ctx, unit))
	}
	return nil
}

// Grow implements System.
func (Running) Grow(disk mounts.Disk, mounted agentapi.MountedDisk) error {
	return Grow(disk.Node, mounted.FileSystem, mounted.MountPoint, disk.Size)
}

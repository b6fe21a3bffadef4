package disks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// ErrHeld means that a disk that has to go is in use.
var ErrHeld = errors.New("the disk is in use")

// System is what Set does to the running system.
type System interface {
	// Disk waits for the disk with a serial until it has size bytes.
	Disk(ctx context.Context, serial string, size int64) (mounts.Disk, error)
	// Attached returns the disk with a serial; mounts.ErrNoDisk if it is not attached.
	Attached(serial string) (mounts.Disk, error)
	// MountedFrom reports whether a disk is mounted at a path.
	MountedFrom(disk mounts.Disk, point string) (bool, error)
	// Unmount unmounts what is mounted at a path; unix.EBUSY if it is in use.
	Unmount(point string) error
	// Exclusive opens a disk for itself alone, for a moment; unix.EBUSY if something uses it.
	Exclusive(disk mounts.Disk) error
	// Users describes what uses a disk.
	Users(ctx context.Context, disk mounts.Disk) []string
	// Reload has systemd read its units again, and Start starts one.
	Reload(ctx context.Context) error
	Start(ctx context.Context, unit string) error
	// Grow grows a mounted file system to its disk.
	Grow(disk mounts.Disk, mounted agentapi.MountedDisk) error
}

// Places are where Set keeps what it knows.
type Places struct{ Units, Current, Given string }

// Own are the places of this system.
var Own = Places{Units: unitDir, Current: currentFile, Given: givenFile}

// startLimit bounds the formatting and mounting of one disk, and waitLimit the wait for one that
// the host has attached or grown.
const (
	startLimit = 4 * time.Minute
	waitLimit  = 20 * time.Second
)

// Wanted is a disk that Set mounts.
type Wanted struct {
	agentapi.MountedDisk
	// Size in bytes that the disk has at least.
	Size int64
}

// Set makes the running system mount the wanted disks and no others, now and at each boot, and releases the
// disks with some serials, so that the host can detach them. What has to go is unmounted first: if a part of it
// is in use, Set mounts again what it has unmounted and returns the disks that are held, with what uses them.
func Set(ctx context.Context, on System, places Places, firmware Firmware, wanted []Wanted,
	release []string) (held map[string][]string, err error) {
	disks := make([]agentapi.MountedDisk, len(wanted))
	for i, one := range wanted {
		disks[i] = one.MountedDisk
	}
	if err := agentapi.CheckMountedDisks(disks); err != nil {
		return nil, err
	}
	before, err := readCurrent(places.Current)
	if err != nil {
		return nil, fmt.Errorf("read which disks are mounted: %w", err)
	}
	var leaving []agentapi.MountedDisk
	for _, disk := range before {
		if !slices.Contains(disks, disk) || slices.Contains(release, disk.Serial) {
			leaving = append(leaving, disk)
		}
	}
	// Those below others first.
	slices.SortFunc(leaving, func(a, b agentapi.MountedDisk) int { return strings.Compare(b.MountPoint, a.MountPoint) })
	var unmounted []agentapi.MountedDisk
	held, err = unmountAll(ctx, on, leaving, release, &unmounted)
	if err != nil || len(held) > 0 {
		for _, disk := range slices.Backward(unmounted) {
			err = errors.Join(err, on.Start(context.WithoutCancel(ctx), mountUnit(disk.MountPoint)))
		}
		return held, err
	}
	// The record comes first: whatever cuts this off, the next boot has all of it.
	if err := remember(places.Given, firmware, disks); err != nil {
		return nil, fmt.Errorf("record which disks are mounted: %w", err)
	}
	if !slices.Equal(before, disks) {
		var attached []mounts.Disk
		for _, disk := range disks {
			if one, err := on.Attached(disk.Serial); err == nil { // mount says why one is not
				attached = append(attached, one)
			}
		}
		if err := writeUnits(places.Units, places.Current, before, disks, attached); err != nil {
			return nil, fmt.Errorf("write the units of disks: %w", err)
		}
		if err := on.Reload(ctx); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(wanted, func(a, b Wanted) int { return strings.Compare(a.MountPoint, b.MountPoint) })
	for _, one := range wanted {
		if err := mount(ctx, on, one); err != nil {
			return nil, fmt.Errorf("mount disk %s at %s: %w", one.Serial, one.MountPoint, err)
		}
	}
	return nil, nil
}

// unmountAll unmounts disks, and makes sure that nothing uses those that are released.
func unmountAll(ctx context.Context, on System, disks []agentapi.MountedDisk, release []string,
	unmounted *[]agentapi.MountedDisk) (held map[string][]string, err error) {
	held = map[string][]string{}
	for _, mounted := range disks {
		disk, err := on.Attached(mounted.Serial)
		if errors.Is(err, mounts.ErrNoDisk) {
			continue
		}
		if err != nil {
			return nil, err
		}
		is, err := on.MountedFrom(disk, mounted.MountPoint)
		if err != nil {
			return nil, err
		}
		if !is {
			continue
		}
		switch err := on.Unmount(mounted.MountPoint); {
		case errors.Is(err, unix.EBUSY):
			held[mounted.Serial] = usersOf(ctx, on, disk)
			return held, nil
		case err != nil:
			return nil, fmt.Errorf("unmount %s: %w", mounted.MountPoint, err)
		}
		*unmounted = append(*unmounted, mounted)
	}
	for _, serial := range release {
		disk, err := on.Attached(serial)
		if errors.Is(err, mounts.ErrNoDisk) {
			continue
		}
		if err == nil {
			err = on.Exclusive(disk)
		}
		switch {
		case errors.Is(err, unix.EBUSY):
			held[serial] = usersOf(ctx, on, disk)
		case err != nil:
			return nil, fmt.Errorf("release disk %s: %w", serial, err)
		}
	}
	return held, nil
}

// usersOf describes what uses a disk; there is always something.
func usersOf(ctx context.Context, on System, disk mounts.Disk) []string {
	users := on.Users(ctx, disk)
	if len(users) == 0 {
		users = []string{"something that no process shows: a mount in another namespace, swap, a RAID or a logical volume (lsblk " + disk.Node + ")"}
	}
	return users
}

// mount mounts a disk by its unit, and grows its file system.
func mount(ctx context.Context, on System, one Wanted) error {
	waiting, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	disk, err := on.Disk(waiting, one.Serial, one.Size)
	if err != nil {
		return err
	}
	is, err := on.MountedFrom(disk, one.MountPoint)
	if err != nil {
		return err
	}
	if !is {
		starting, cancel := context.WithTimeout(ctx, startLimit)
		defer cancel()
		if err := on.Start(starting, mountUnit(one.MountPoint)); err != nil {
			return err
		}
		if is, err = on.MountedFrom(disk, one.MountPoint); err != nil || !is {
			return errors.Join(errors.New("its unit has started, and something else is mounted there"), err)
		}
	}
	if one.ReadOnly {
		return nil
	}
	return on.Grow(disk, one.MountedDisk)
}

package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The form of a layer's hash tree: dm-verity version 1, SHA-256, no salt, one superblock block between data and
// tree. See the kernel's Documentation/admin-guide/device-mapper/verity.rst.
const (
	verityBlock   = 4096
	verityVersion = 1
	verityHash    = "sha256"
)

// verityBusyWait bounds how long a verity device may stay busy after its last unmount: udev and blkid open a new block
// device for a moment.
const verityBusyWait = 3 * time.Second

// verityPrefix begins the device-mapper names of layers.
const verityPrefix = "sharedos-"

// verityName is the device-mapper name of a layer's device.
func verityName(id tree.Digest) string { return verityPrefix + id.Hex() }

// verityTable is the device-mapper table of a layer on the device "major:minor". A block that does not match gives EIO,
// dm-verity's default: a panic or a restart, its other modes, would hide which layer is corrupt.
func verityTable(layer release.Layer, device string) (dm.Target, error) {
	if layer.DataSize <= 0 || layer.DataSize%verityBlock != 0 {
		return dm.Target{}, fmt.Errorf("verity table of %s: data size %d is not a positive multiple of %d", layer.ID,
			layer.DataSize, verityBlock)
	}
	params, err := dm.BuildTargetParams(dm.OpenArgs{
		Version:        verityVersion,
		DataDevice:     device,
		HashDevice:     device,
		DataBlockSize:  verityBlock,
		HashBlockSize:  verityBlock,
		DataBlocks:     uint64(layer.DataSize / verityBlock),
		HashName:       verityHash,
		RootDigest:     layer.ID[:],
		HashStartBytes: uint64(layer.DataSize) + verityBlock,
	})
	if err != nil {
		return dm.Target{}, fmt.Errorf("verity table of %s: %w", layer.ID, err)
	}
	return dm.Target{Length: uint64(layer.DataSize / sectorSize), Type: "verity", Params: params}, nil
}

// openVerity sets up the verity device, which reads the layer's data and checks every block, and returns its node.
//
// An earlier agent that was killed may have left the verity device. It is set up again, or used if it is busy: only a
// table that matches its name is ever loaded into it.
func openVerity(ctx context.Context, layer release.Layer, device LayerDevice) (node string, err error) {
	target, err := verityTable(layer, device.Number)
	if err != nil {
		return "", err
	}
	control, err := dm.Open()
	if err != nil {
		return "", fmt.Errorf("open device-mapper (is dm_mod loaded?): %w", err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()

	name := verityName(layer.ID)
	if status, statusErr := control.DeviceStatus(name); statusErr == nil {
		removeErr := control.RemoveDevice(name)
		if removeErr != nil && status.ActivePresent && errors.Is(removeErr, unix.EBUSY) {
			return verityNode(status.Minor), restoreVerity(control, name, target)
		}
		if removeErr != nil {
			return "", fmt.Errorf("remove the stale verity device: %w", removeErr)
		}
	} else if !errors.Is(statusErr, unix.ENXIO) {
		return "", fmt.Errorf("set up dm-verity: %w", statusErr)
	}

	number, err := control.CreateDevice(name)
	if err != nil {
		return "", fmt.Errorf("set up dm-verity: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, control.RemoveDevice(name))
		}
	}()
	if err := control.LoadTable(name, []dm.Target{target}); err != nil {
		return "", fmt.Errorf("set up dm-verity: %w", err)
	}
	if err := control.SuspendDevice(name, false); err != nil {
		return "", fmt.Errorf("set up dm-verity: %w", err)
	}
	node = verityNode(unix.Minor(number))
	if err := waitForNode(ctx, node, number); err != nil {
		return "", fmt.Errorf("set up dm-verity: %w", err)
	}
	return node, nil
}

// abandonedTarget is the device-mapper target that fails every read (the kernel's drivers/md/dm-target.c).
const abandonedTarget = "error"

// abandonVerity makes the verity device of a layer fail every read, which releases the layer's
// disk. device is its number.
func abandonVerity(id tree.Digest, device uint64) (err error) {
	size, err := readAttribute(filepath.Join(sysBlock, filepath.Base(verityNode(unix.Minor(device)))), "size")
	if err != nil {
		return err
	}
	sectors, err := strconv.ParseUint(size, 10, 64)
	if err != nil {
		return fmt.Errorf("size of the verity device: %w", err)
	}
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("open device-mapper: %w", err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	name := verityName(id)
	if err := control.LoadTable(name, []dm.Target{{Length: sectors, Type: abandonedTarget}}); err != nil {
		return fmt.Errorf("abandon the verity device: %w", err)
	}
	if err := control.SuspendDevice(name, false); err != nil {
		return errors.Join(fmt.Errorf("abandon the verity device: %w", err), control.ClearTable(name))
	}
	return nil
}

// abandoned reports whether a device fails every read. That target has no status, and dm-verity always has one.
func abandoned(control *dm.Control, name string) (bool, error) {
	device, err := control.DeviceStatus(name)
	if err != nil || !device.ActivePresent {
		return false, err
	}
	status, err := control.TableStatus(name, false)
	return err == nil && strings.TrimSpace(status) == "", err
}

// isAbandoned reports whether the device of a layer is there and fails every read.
func isAbandoned(id tree.Digest) (lost bool, err error) {
	names, err := verityNames(sysBlock)
	if err != nil || !slices.Contains(names, verityName(id)) {
		return false, err
	}
	control, err := dm.Open()
	if err != nil {
		return false, fmt.Errorf("open device-mapper: %w", err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	lost, err = abandoned(control, verityName(id))
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	return lost, err
}

// restoreVerity has a device that was abandoned read its layer again.
func restoreVerity(control *dm.Control, name string, target dm.Target) error {
	lost, err := abandoned(control, name)
	if err != nil || !lost {
		return err
	}
	if err := control.LoadTable(name, []dm.Target{target}); err != nil {
		return fmt.Errorf("set up dm-verity again: %w", err)
	}
	if err := control.SuspendDevice(name, false); err != nil {
		return errors.Join(fmt.Errorf("set up dm-verity again: %w", err), control.ClearTable(name))
	}
	return nil
}

// removeAbandoned removes the abandoned devices of layers that nothing uses any more.
func removeAbandoned() (err error) {
	names, err := verityNames(sysBlock)
	if err != nil || len(names) == 0 {
		return err
	}
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("open device-mapper: %w", err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	for _, name := range names {
		lost, err := abandoned(control, name)
		if err == nil && lost {
			err = control.RemoveDevice(name)
		}
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("remove an abandoned device: %w", err)
		}
	}
	return nil
}

// verityNames lists the device-mapper names of layers, by the directory /sys/block.
func verityNames(sys string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(sys, "dm-*"))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, directory := range found {
		name, err := readAttribute(directory, "dm/name")
		if errors.Is(err, fs.ErrNotExist) || isNoDevice(err) {
			continue // it was removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(name, verityPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// closeVerity removes the layer's verity device, if there is one. It returns ErrLayerInUse when the device is busy.
func closeVerity(ctx context.Context, id tree.Digest) (err error) {
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("open device-mapper: %w", err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, verityBusyWait)
	defer cancel()
	for {
		err := control.RemoveDevice(verityName(id))
		switch {
		case err == nil || errors.Is(err, unix.ENXIO):
			return nil
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("remove the verity device: %w", err)
		}
		select {
		case <-ctx.Done():
			return ErrLayerInUse
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// verityNode is the node that devtmpfs makes for a device-mapper minor, with or without udev.
func verityNode(minor uint32) string {
	return filepath.Join("/dev", "dm-"+strconv.FormatUint(uint64(minor), 10))
}

// waitForNode waits until node is the block device with that number.
func waitForNode(ctx context.Context, node string, number uint64) error {
	ctx, cancel := context.WithTimeout(ctx, verityBusyWait)
	defer cancel()
	for {
		var stat unix.Stat_t
		err := unix.Stat(node, &stat)
		if err == nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK && stat.Rdev == number {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for device node %s: %w", node, errors.Join(err, context.Cause(ctx)))
		case <-time.After(diskPoll):
		}
	}
}

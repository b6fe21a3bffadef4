package mounts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
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

// verityBusyWait bounds how long a device may stay busy after its last mount went: udev and blkid open a new
// block device for a moment.
const verityBusyWait = 3 * time.Second

// verityName is the device-mapper name of a layer's device.
func verityName(id tree.Digest) string { return "sharedos-" + id.Hex() }

// verityTable is the device-mapper table of a layer on the disk "major:minor". Errors in the data are EIO, the
// default: a layer that lies must not be read, and a panic or restart would hide which one it was.
func verityTable(layer release.Layer, disk string) (dm.Target, error) {
	if layer.DataSize <= 0 || layer.DataSize%verityBlock != 0 {
		return dm.Target{}, fmt.Errorf("verity table of %s: data size %d is not a positive multiple of %d", layer.ID, layer.DataSize, verityBlock)
	}
	params, err := dm.BuildTargetParams(dm.OpenArgs{
		Version:        verityVersion,
		DataDevice:     disk,
		HashDevice:     disk,
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

// openVerity makes the device that reads the layer's data and checks every block, and returns its node.
// A device left by an agent that was killed is made anew, or used if something still holds it: only a table
// that matches the name is ever loaded under it.
func openVerity(ctx context.Context, layer release.Layer, disk Disk) (node string, err error) {
	// A stack from the wire names no Size; the superblock at least follows the data.
	if least := max(layer.Size, layer.DataSize+verityBlock); disk.Size < least {
		return "", fmt.Errorf("open layer %s: disk %s has %d bytes, the layer at least %d", layer.ID, disk.Node, disk.Size, least)
	}
	target, err := verityTable(layer, disk.Number)
	if err != nil {
		return "", err
	}
	control, err := dm.Open()
	if err != nil {
		return "", fmt.Errorf("open layer %s: open device-mapper (is dm_mod loaded?): %w", layer.ID, err)
	}
	defer func() { err = errors.Join(err, control.Close()) }()

	name := verityName(layer.ID)
	if status, statusErr := control.DeviceStatus(name); statusErr == nil {
		removeErr := control.RemoveDevice(name)
		if removeErr != nil && status.ActivePresent && errors.Is(removeErr, unix.EBUSY) {
			return verityNode(status.Minor), nil
		}
		if removeErr != nil {
			return "", fmt.Errorf("open layer %s: remove its stale device: %w", layer.ID, removeErr)
		}
	} else if !errors.Is(statusErr, unix.ENXIO) {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, statusErr)
	}

	number, err := control.CreateDevice(name)
	if err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, control.RemoveDevice(name))
		}
	}()
	if err := control.LoadTable(name, []dm.Target{target}); err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	if err := control.SuspendDevice(name, false); err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	node = verityNode(unix.Minor(number))
	if err := waitForNode(ctx, node, number); err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	return node, nil
}

// closeVerity removes the layer's device. It returns ErrLayerHeld when something still uses it, and nil when
// there is none.
func closeVerity(ctx context.Context, id tree.Digest) (err error) {
	control, err := dm.Open()
	if err != nil {
		return fmt.Errorf("close layer %s: open device-mapper: %w", id, err)
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
			return fmt.Errorf("close layer %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("close layer %s: %w", id, ErrLayerHeld)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// verityNode is the node that devtmpfs makes for a device-mapper minor, with or without udev.
func verityNode(minor uint32) string {
	return filepath.Join("/dev", "dm-"+strconv.FormatUint(uint64(minor), 10))
}

// waitForNode waits until node is the block device of that number.
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

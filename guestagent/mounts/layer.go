package mounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrLayerHeld means that a mount or a process still uses a layer, so that its disk must stay attached.
var ErrLayerHeld = errors.New("the layer is still in use")

// diskWait bounds how long OpenLayer waits for a layer's disk: hot-plug takes a quarter of a second.
const diskWait = 15 * time.Second

// LayerPath is where a layer is mounted while it is open.
func LayerPath(id tree.Digest) string { return filepath.Join(LayersDir, id.Hex()) }

// OpenLayer finds the layer's disk by serial, checks it with dm-verity and mounts its EROFS image at LayerPath.
// It waits at most 15 seconds for the disk (ErrNoDisk). A layer that is open already is left as it is.
//
// Opening reads a few blocks only. A block that does not match the layer's id fails with EIO when it is read.
func OpenLayer(ctx context.Context, layer release.Layer) (path string, err error) {
	path = LayerPath(layer.ID)
	mounted, err := isMountPoint(path)
	if err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	if mounted {
		return path, nil
	}
	waitCtx, cancel := context.WithTimeout(ctx, diskWait)
	defer cancel()
	disk, err := WaitForDisk(waitCtx, LayerSerial(layer.ID))
	if err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	node, err := openVerity(ctx, layer, disk)
	if err != nil {
		return "", err
	}
	if err := mountLayer(node, path); err != nil {
		return "", errors.Join(fmt.Errorf("open layer %s: %w", layer.ID, err), closeVerity(ctx, layer.ID))
	}
	return path, nil
}

// mountLayer mounts the EROFS image on node at path.
func mountLayer(node, path string) error {
	// 0700: a layer shows files that the root overlay may have hidden or replaced.
	if err := os.MkdirAll(LayersDir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// No device node of an image is ever one to use: devtmpfs has those. Whiteouts are not opened.
	err := unix.Mount(node, path, "erofs", unix.MS_RDONLY|unix.MS_NODEV, "")
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("mount %s: the image does not match its id or is no EROFS image: %w", node, err)
	default:
		err = fmt.Errorf("mount %s: %w", node, err)
	}
	return errors.Join(err, os.Remove(path))
}

// CloseLayer unmounts a layer and removes its verity device, so that its disk can be unplugged. It returns
// ErrLayerHeld, and leaves the layer open, when an overlay, a mount namespace or a process still uses it.
// A layer that is not open is closed already.
func CloseLayer(ctx context.Context, id tree.Digest) error {
	path := LayerPath(id)
	mounted, err := isMountPoint(path)
	if err != nil {
		return fmt.Errorf("close layer %s: %w", id, err)
	}
	if !mounted {
		return closeVerity(ctx, id)
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fmt.Errorf("close layer %s: %w", id, err)
	}
	// Never MNT_DETACH: it would hide from us that somebody still reads.
	err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("close layer %s: %w", id, ErrLayerHeld)
	}
	if err != nil {
		return fmt.Errorf("close layer %s: unmount: %w", id, err)
	}
	// An overlay holds clones of its lower mounts: the unmount above succeeds under it, the removal does not.
	if err := closeVerity(ctx, id); err != nil {
		return errors.Join(err, mountLayer(verityNode(unix.Minor(stat.Dev)), path))
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("close layer %s: %w", id, err)
	}
	return nil
}

// OpenLayers lists the layers that are open, sorted by id.
func OpenLayers() ([]tree.Digest, error) {
	entries, err := os.ReadDir(LayersDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list open layers: %w", err)
	}
	var ids []tree.Digest
	for _, entry := range entries {
		id, err := tree.ParseDigest("sha256:" + entry.Name())
		if err != nil {
			continue
		}
		mounted, err := isMountPoint(LayerPath(id))
		if err != nil {
			return nil, fmt.Errorf("list open layers: %w", err)
		}
		if mounted {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b tree.Digest) int { return bytes.Compare(a[:], b[:]) })
	return ids, nil
}

// isMountPoint reports whether a mount has its root at path; a path that does not exist is none.
func isMountPoint(path string) (bool, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, 0, &stat)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

// isNoDevice reports whether an error says that a device went away.
func isNoDevice(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

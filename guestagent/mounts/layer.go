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

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrLayerInUse means that a mount or a process still uses a layer, so that its device must stay attached.
var ErrLayerInUse = errors.New("the layer is still in use")

// LayerPath is where a layer is mounted while it is open.
func LayerPath(id tree.Digest) string { return filepath.Join(LayersDir, id.Hex()) }

// OpenLayer finds the device of a layer, verifies it and mounts its EROFS image at LayerPath. It waits at most 15
// seconds for the device (ErrNoDisk). A layer that is open already stays as it is.
//
// Opening reads only a few blocks. A block that does not match the layer's id fails with EIO when it is read.
func OpenLayer(ctx context.Context, layer release.Layer) (path string, err error) {
	path = LayerPath(layer.ID)
	mounted, err := isMountPoint(path)
	if err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	if mounted {
		return path, nil
	}
	device, err := findLayerDevice(ctx, layer)
	if err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	verified, err := openVerity(ctx, layer, device)
	if err != nil {
		return "", fmt.Errorf("open layer %s: %w", layer.ID, err)
	}
	if err := mountLayer(verified, path); err != nil {
		return "", errors.Join(fmt.Errorf("open layer %s: %w", layer.ID, err), closeVerity(ctx, layer.ID))
	}
	return path, nil
}

// mountLayer mounts the EROFS image on a verified device at path.
func mountLayer(node, path string) error {
	// 0700: a layer shows files that the root overlay may have hidden or replaced.
	if err := os.MkdirAll(LayersDir, 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// MS_NODEV: device nodes come from devtmpfs, never from an image. Whiteouts work without being opened.
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

// CloseLayer unmounts a layer and removes its verity device, so that its device can be unplugged. When an overlay, a
// mount namespace or a process still uses the layer, it stays open and the error is ErrLayerInUse. Closing a layer that
// is not open does nothing.
func CloseLayer(ctx context.Context, id tree.Digest) error {
	if err := removeAbandoned(); err != nil {
		return closing(id, err)
	}
	path := LayerPath(id)
	mounted, err := isMountPoint(path)
	if err != nil {
		return fmt.Errorf("close layer %s: %w", id, err)
	}
	if !mounted {
		// The answer that it was abandoned may not have arrived.
		if free, err := isAbandoned(id); err != nil || free {
			return closing(id, err)
		}
		return closing(id, closeVerity(ctx, id))
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fmt.Errorf("close layer %s: %w", id, err)
	}
	// Never MNT_DETACH: it would succeed while a process still reads from the layer.
	err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("close layer %s: %w", id, ErrLayerInUse)
	}
	if err != nil {
		return fmt.Errorf("close layer %s: unmount: %w", id, err)
	}
	// An overlay has clones of its lower mounts: it does not keep this unmount from succeeding, but the removal.
	if err := closeVerity(ctx, id); err != nil {
		return errors.Join(closing(id, err), mountLayer(verityNode(unix.Minor(stat.Dev)), path))
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("close layer %s: %w", id, err)
	}
	return nil
}

// AbandonLayer releases a layer's device although file systems that were built with the layer are
// still in use: from then on, every read of the layer fails. It is for a layer of which nobody uses
// a file, and to which no directory leads any more. Such a file system is read below the files of
// its other layers alone. Opening the layer again makes it whole.
func AbandonLayer(id tree.Digest) error {
	path := LayerPath(id)
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return closing(id, err)
	}
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return closing(id, ErrLayerInUse)
	}
	if err != nil {
		return closing(id, fmt.Errorf("unmount: %w", err))
	}
	if err := abandonVerity(id, stat.Dev); err != nil {
		return errors.Join(closing(id, err), mountLayer(verityNode(unix.Minor(stat.Dev)), path))
	}
	return closing(id, os.Remove(path))
}

// closing names the layer in an error of its closing.
func closing(id tree.Digest, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("close layer %s: %w", id, err)
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

// isMountPoint reports whether a mount has its root at path.
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

// isNoDevice reports whether an error means that a device is gone.
func isNoDevice(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

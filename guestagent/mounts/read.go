package mounts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	readChunk = 1 << 20
	readBlock = 4096
)

// ErrCorrupt means that a layer's bytes are not those that its id names.
var ErrCorrupt = errors.New("the layer does not have the bytes that its id names")

// ReadLayer reads every block of an open layer, so that dm-verity checks each. It returns ErrCorrupt with the
// offset of the first block, in bytes, that is not what the layer's id names. What it read does not stay in memory.
func ReadLayer(ctx context.Context, layer release.Layer) (err error) {
	var stat unix.Stat_t
	if err := unix.Stat(LayerPath(layer.ID), &stat); err != nil {
		return fmt.Errorf("read layer %s: %w", layer.ID, err)
	}
	device, err := os.Open(verityNode(unix.Minor(stat.Dev)))
	if err != nil {
		return fmt.Errorf("read layer %s: %w", layer.ID, err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	if err := readWhole(ctx, device, layer.DataSize); err != nil {
		return fmt.Errorf("read layer %s: %w", layer.ID, err)
	}
	return nil
}

// readWhole reads size bytes from the start of a device.
func readWhole(ctx context.Context, device *os.File, size int64) error {
	buffer := make([]byte, readChunk)
	for offset := int64(0); offset < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := device.ReadAt(buffer[:min(readChunk, size-offset)], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return worstBlock(device, offset, min(readChunk, size-offset), err)
		}
		if n == 0 {
			return fmt.Errorf("%w: it ends at offset %d of %d", ErrCorrupt, offset, size)
		}
		// The pages of the device are not those of its files: nobody needs them again.
		if err := unix.Fadvise(int(device.Fd()), offset, int64(n), unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("drop what was read: %w", err)
		}
		offset += int64(n)
	}
	return nil
}

// worstBlock finds the first block that cannot be read in a chunk that could not.
func worstBlock(device *os.File, offset, length int64, cause error) error {
	buffer := make([]byte, readBlock)
	for at := offset; at < offset+length; at += readBlock {
		if _, err := device.ReadAt(buffer, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: block at offset %d: %w", ErrCorrupt, at, err)
		}
	}
	return fmt.Errorf("%w: somewhere in %d bytes from offset %d: %w", ErrCorrupt, length, offset, cause)
}

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

// ErrCorrupt means that a layer does not match its id.
var ErrCorrupt = errors.New("the layer does not have the bytes that its id names")

// ReadLayer reads every block of an open layer, so that dm-verity checks each of them. It returns ErrCorrupt with the
// offset, in bytes, of the first block that does not match the layer's id. What it reads does not stay in the page
// cache.
func ReadLayer(ctx context.Context, layer release.Layer) error {
	return readLayer(ctx, layer, 0, layer.DataSize, func() {})
}

// readLayer is ReadLayer for the bytes from one offset to another. It calls progress after each chunk.
func readLayer(ctx context.Context, layer release.Layer, from, to int64, progress func()) (err error) {
	var stat unix.Stat_t
	if err := unix.Stat(LayerPath(layer.ID), &stat); err != nil {
		return fmt.Errorf("read layer %s: %w", layer.ID, err)
	}
	device, err := os.Open(verityNode(unix.Minor(stat.Dev)))
	if err != nil {
		return fmt.Errorf("read layer %s: %w", layer.ID, err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	if err := readRange(ctx, device, from, to, progress); err != nil {
		return fmt.Errorf("read layer %s: %w", layer.ID, err)
	}
	return nil
}

// readRange reads a device from one offset to another.
func readRange(ctx context.Context, device *os.File, from, size int64, progress func()) error {
	buffer := make([]byte, readChunk)
	for offset := from; offset < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := device.ReadAt(buffer[:min(readChunk, size-offset)], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return firstBadBlock(device, offset, min(readChunk, size-offset), err)
		}
		if n == 0 {
			return fmt.Errorf("%w: it ends at offset %d of %d", ErrCorrupt, offset, size)
		}
		// The page cache of the device is separate from that of its files: nothing reads these pages again.
		if err := unix.Fadvise(int(device.Fd()), offset, int64(n), unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("drop cached pages: %w", err)
		}
		offset += int64(n)
		progress()
	}
	return nil
}

// firstBadBlock finds the first unreadable block of a chunk.
func firstBadBlock(device *os.File, offset, length int64, cause error) error {
	buffer := make([]byte, readBlock)
	for at := offset; at < offset+length; at += readBlock {
		if _, err := device.ReadAt(buffer, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: block at offset %d: %w", ErrCorrupt, at, err)
		}
	}
	return fmt.Errorf("%w: somewhere in %d bytes from offset %d: %w", ErrCorrupt, length, offset, cause)
}

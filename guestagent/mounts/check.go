package mounts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/go-dmverity/pkg/dm"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// CheckLayer checks that an open layer can still be read: its disk is attached and large enough, and a sample of blocks
// can be read. If dm-verity has found a bad block, the whole layer has to be readable now. The sample is the first and the
// last block and others in between, each time different ones. They are read from the disk, not from the page cache, which
// can have them long after the disk is gone.
//
// A single bad block that nobody has read yet is found only by chance. CheckLayer calls progress after each read that
// ended. The errors are ErrNoDisk, ErrCorrupt, or what the read returned.
func CheckLayer(ctx context.Context, layer release.Layer, blocks int, progress func()) (err error) {
	fail := func(err error) error { return fmt.Errorf("check layer %s: %w", layer.ID, err) }
	disks, err := Disks()
	if err != nil {
		return fail(err)
	}
	if err := checkDisk(disks, layer); err != nil {
		return fail(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(LayerPath(layer.ID), &stat); err != nil {
		return fail(err)
	}
	control, err := dm.Open()
	if err != nil {
		return fail(fmt.Errorf("open device-mapper: %w", err))
	}
	status, err := control.TableStatus(verityName(layer.ID), false)
	if err = errors.Join(err, control.Close()); err != nil {
		return fail(err)
	}
	if corrupted(status) {
		if err := readAgain(ctx, layer, stat.Dev, progress); err != nil {
			return fail(fmt.Errorf("dm-verity has found a block that does not match: %w", err))
		}
	}
	fd, err := unix.Open(verityNode(unix.Minor(stat.Dev)), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	device := os.NewFile(uintptr(fd), verityNode(unix.Minor(stat.Dev)))
	defer func() { err = errors.Join(err, device.Close()) }()
	// O_DIRECT needs memory that is aligned to a block.
	buffer, err := unix.Mmap(-1, 0, readBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fail(fmt.Errorf("allocate a block: %w", err))
	}
	defer func() { err = errors.Join(err, unix.Munmap(buffer)) }()
	if err := readSample(ctx, device, buffer, sample(layer.DataSize, blocks, rand.Float64()), progress); err != nil { //nolint:gosec // no secret
		return fail(err)
	}
	return nil
}

// mended are the devices that dm-verity reports as corrupted and that could be read whole since.
var mended sync.Map

// readAgain reads a layer whole of which dm-verity has found a bad block: the host may have mended it, and dm-verity
// reports it until the device is set up anew. A layer that could be read is not read again.
func readAgain(ctx context.Context, layer release.Layer, device uint64, progress func()) error {
	type key struct {
		id     tree.Digest
		device uint64
	}
	if _, whole := mended.Load(key{layer.ID, device}); whole {
		return nil
	}
	err := readLayer(ctx, layer, progress)
	if err == nil {
		mended.Store(key{layer.ID, device}, true)
	}
	return err
}

// checkDisk checks that the disk of a layer is attached and has room for it.
func checkDisk(disks []Disk, layer release.Layer) error {
	disk, err := pickDisk(disks, LayerSerial(layer.ID))
	if err != nil {
		return err
	}
	if least := max(layer.Size, layer.DataSize+verityBlock); disk.Size < least {
		return fmt.Errorf("%w: %s has %d bytes, the layer at least %d", ErrCorrupt, disk.Node, disk.Size, least)
	}
	return nil
}

// corrupted reads the status of a verity target: "V", or "C" once a block did not match, and then maybe more (the
// kernel's Documentation/admin-guide/device-mapper/verity.rst).
func corrupted(status string) bool { return strings.HasPrefix(strings.TrimSpace(status), "C") }

// sample returns offsets of blocks: the first, the last, and one in each of equal parts in between, at the phase of 0 to
// 1 within its part.
func sample(size int64, blocks int, phase float64) []int64 {
	all := size / readBlock
	last := max(0, (all-1)*readBlock)
	offsets := []int64{0, last}
	if int64(blocks) >= all {
		for block := range all {
			offsets = append(offsets, block*readBlock)
		}
	} else {
		for i := range blocks {
			block := int64((float64(i) + phase) * float64(all) / float64(blocks))
			offsets = append(offsets, min(block*readBlock, last))
		}
	}
	slices.Sort(offsets)
	return slices.Compact(offsets)
}

// readSample reads one block at each offset.
func readSample(ctx context.Context, device io.ReaderAt, buffer []byte, offsets []int64, progress func()) error {
	for _, offset := range offsets {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := device.ReadAt(buffer[:readBlock], offset)
		switch {
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("%w: block at offset %d: %w", ErrCorrupt, offset, err)
		case n < readBlock:
			return fmt.Errorf("%w: it ends at offset %d", ErrCorrupt, offset+int64(n))
		}
		progress()
	}
	return nil
}

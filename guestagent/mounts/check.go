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

// Thoroughness says how much of a layer a check reads.
type Thoroughness struct {
	// Blocks is the size of the sample, in blocks of 4 KiB.
	Blocks int
	// Part is how much is read of a layer in which dm-verity has found a bad block and which could be
	// read whole since, in bytes, each time from where the last check ended; 0 for the whole layer.
	Part int64
}

// CheckLayer checks that an open layer can still be read: its disk is attached and large enough, and a sample
// of blocks can be read. The sample is the first and the last block and others in between, each time different
// ones. They are read from the disk, not from the page cache, which can have them long after the disk is gone.
//
// If dm-verity has found a bad block, the whole layer has to be readable now: the host may have
// mended it. dm-verity reports that block until its device is set up anew, and no further one. So
// each later check reads a part of the layer.
//
// A single bad block that nobody has read yet is found only by chance. CheckLayer calls progress after each read that
// ended. The errors are ErrNoDisk, ErrCorrupt, or what the read returned.
func CheckLayer(ctx context.Context, layer release.Layer, by Thoroughness, progress func()) (err error) {
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
		if err := mended.check(ctx, layer, stat.Dev, by.Part, progress); err != nil {
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
	if err := readSample(ctx, device, buffer, sample(layer.DataSize, by.Blocks, rand.Float64()),
		progress); err != nil { //nolint:gosec // no secret
		return fail(err)
	}
	return nil
}

// mended are the layers in which dm-verity has found a bad block.
var mended = reread{next: map[rereadKey]int64{}, read: readLayer}

type rereadKey struct {
	id     tree.Digest
	device uint64
}

// reread reads layers again, a part at a time.
type reread struct {
	mutex sync.Mutex
	// next is where the next part begins. A layer without an entry was not readable as a whole yet.
	next map[rereadKey]int64
	read func(ctx context.Context, layer release.Layer, from, to int64, progress func()) error
}

// check reads the next part of a layer, or the whole if it was not readable before or if part is 0.
func (r *reread) check(ctx context.Context, layer release.Layer, device uint64, part int64, progress func()) error {
	key := rereadKey{layer.ID, device}
	r.mutex.Lock()
	from, whole := r.next[key]
	r.mutex.Unlock()
	to := layer.DataSize
	if whole && part > 0 {
		to = min(from+part, to)
	} else {
		from = 0
	}
	err := r.read(ctx, layer, from, to, progress)
	r.mutex.Lock()
	defer r.mutex.Unlock()
	switch {
	case err != nil:
		delete(r.next, key)
	case to == layer.DataSize:
		r.next[key] = 0
	default:
		r.next[key] = to
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

// sample returns offsets of blocks: the first, the last, and one in each of equal parts in between,
// at the phase of 0 to 1 within its part.
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

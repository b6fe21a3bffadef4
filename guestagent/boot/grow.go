package boot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// ErrNotGrown means that the kernel does not show the private disk as large as the host says it is.
var ErrNotGrown = errors.New("the private disk is smaller than the host says")

// growPoll is short compared with the time until the guest sees a disk's new size.
const growPoll = 20 * time.Millisecond

// GrowMounted grows the mounted private file system to the size of its disk, once the kernel shows that the disk has
// size bytes. It waits for that until ctx ends (ErrNotGrown). It returns the bytes of the file system before and after.
// A file system that fills its disk stays as it is.
func GrowMounted(ctx context.Context, size int64) (before, after int64, err error) {
	disk, err := grownDisk(ctx, size)
	if err != nil {
		return 0, 0, fmt.Errorf("grow private disk: %w", err)
	}
	if before, err = fileSystemSize(disk.Node); err != nil {
		return 0, 0, err
	}
	if disk.Size-before < growStep {
		return before, before, nil
	}
	if err := GrowPrivate(disk.Size); err != nil {
		return before, before, err
	}
	after, err = fileSystemSize(disk.Node)
	if err == nil && disk.Size-after >= growStep {
		err = fmt.Errorf("grow private disk: its file system has %d bytes of %d", after, disk.Size)
	}
	return before, after, err
}

// grownDisk waits until the private disk has size bytes.
func grownDisk(ctx context.Context, size int64) (mounts.Disk, error) {
	ticker := time.NewTicker(growPoll)
	defer ticker.Stop()
	for {
		disk, err := mounts.WaitForDisk(ctx, agentapi.PrivateDiskSerial)
		if err != nil || disk.Size >= size {
			return disk, err
		}
		select {
		case <-ctx.Done():
			return disk, fmt.Errorf("%w: %s has %d bytes, not %d: %w", ErrNotGrown, disk.Node,
				disk.Size, size, ctx.Err())
		case <-ticker.C:
		}
	}
}

// fileSystemSize reads the size of a mounted ext4 from its superblock: the block device shows it as the file system has
// it in memory.
func fileSystemSize(node string) (int64, error) {
	head, err := readHead(node)
	if err != nil {
		return 0, err
	}
	super, isExt4 := parseSuperblock(head)
	if !isExt4 {
		return 0, fmt.Errorf("private disk %s: it has no ext4 superblock", node)
	}
	return super.size, nil
}

package disks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// edge is how many bytes at the start and at the end of a disk have to be zero before it is formatted.
// All signatures that libblkid knows (file systems, partition tables, RAID, LVM, swap) are there.
const edge = 1 << 20

// ErrNotBlank means that a disk has something on it, but not the file system that it should have.
var ErrNotBlank = errors.New("the disk is not empty, so it is not formatted")

// Make makes a file system on the disk with a serial if the disk is blank. It does nothing to any other disk.
func Make(ctx context.Context, serial, system string) error {
	ctx, cancel := context.WithTimeout(ctx, makeLimit)
	defer cancel()
	disk, err := mounts.WaitForDisk(ctx, serial)
	if err != nil {
		return fmt.Errorf("make a file system: %w", err)
	}
	return makeOn(ctx, disk, system)
}

func makeOn(ctx context.Context, disk mounts.Disk, system string) error {
	blank, err := isBlank(disk.Node, disk.Size)
	if err != nil || !blank {
		return err
	}
	if disk.ReadOnly {
		return fmt.Errorf("make a file system on disk %s: it is empty and read-only", disk.Serial)
	}
	if _, err := units.Run(ctx, mkfs(system, disk.Node)...); err != nil {
		return fmt.Errorf("make a file system on disk %s: %w; if mkfs.%s is missing, add its package to the base",
			disk.Serial, err, system)
	}
	return nil
}

const (
	// makeLimit bounds the making of a file system.
	makeLimit = 4 * time.Minute
)

// mkfs is the command that makes a file system. -F and -f: blkid may find nothing, and mkfs asks no questions.
func mkfs(system, node string) []string {
	if system == agentapi.XFS {
		return []string{"mkfs.xfs", "-q", node}
	}
	return []string{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1", node}
}

// isBlank reports whether both ends of a disk are zero. It fails if the disk is in use.
func isBlank(node string, size int64) (blank bool, err error) {
	disk, err := os.OpenFile(node, os.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		return false, fmt.Errorf("look at disk %s: %w", node, err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	length := min(size, edge)
	for _, offset := range []int64{0, size - length} {
		data := make([]byte, length)
		if _, err := disk.ReadAt(data, offset); err != nil {
			return false, fmt.Errorf("look at disk %s: %w", node, err)
		}
		if len(bytes.Trim(data, "\x00")) > 0 {
			return false, nil
		}
	}
	return true, nil
}

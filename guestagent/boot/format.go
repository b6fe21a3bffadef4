package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// minDisk is the smallest private disk in bytes: a smaller one has no room besides ext4's journal and the seed.
const minDisk = 64 << 20

// privateLabel is informational: the private disk is found by its serial.
const privateLabel = "sharedos-private"

// formatImage is the sparse file in /run that mkfs writes, as large as the disk.
const formatImage = mounts.RunDir + "/format.img"

// formatDisk creates an ext4 file system on a disk that was never complete. It marks the disk first and writes the
// superblock last, so that an interruption at any moment leaves a disk that is known to be unfinished.
//
// mkfs writes into a sparse file, not to the disk, because it wipes the first sector and with it the mark.
func formatDisk(ctx context.Context, lower lowerTree, disk mounts.Disk) (err error) {
	if disk.Size < minDisk {
		return fmt.Errorf("format private disk %s: %d bytes are less than the %d that it must have",
			disk.Node, disk.Size, minDisk)
	}
	// O_EXCL: a mounted disk is never written to.
	device, err := os.OpenFile(disk.Node, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("format private disk: %w", err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	if err := writeMark(device, markFormatting); err != nil {
		return fmt.Errorf("format private disk %s: %w", disk.Node, err)
	}
	zeroed, err := punch(device, disk.Size)
	if err != nil {
		return fmt.Errorf("format private disk %s: %w", disk.Node, err)
	}

	image, err := os.OpenFile(formatImage, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("format private disk: %w", err)
	}
	defer func() { err = errors.Join(err, image.Close(), os.Remove(formatImage)) }()
	if err := image.Truncate(disk.Size); err != nil {
		return fmt.Errorf("format private disk: %w", err)
	}
	if err := lower.run(ctx, "mkfs.ext4", mkfsArguments(disk.Size, zeroed, formatImage)...); err != nil {
		return fmt.Errorf("format private disk %s: %w", disk.Node, err)
	}
	if err := copyImage(device, image, disk.Size, zeroed); err != nil {
		return fmt.Errorf("format private disk %s: %w", disk.Node, err)
	}
	return nil
}

// mkfsArguments are for a disk that is sparse on the host: blocks that are never written take no space there.
func mkfsArguments(size int64, zeroed bool, path string) []string {
	// ext4 writes its journal cyclically, so in time all of it is allocated.
	journal := "4"
	switch {
	case size >= 64<<30:
		journal = "64"
	case size >= 8<<30:
		journal = "16"
	case size >= 2<<30:
		journal = "8"
	}
	extended := "nodiscard"
	if zeroed {
		// Inode tables that are known to be zero need no background zeroing by the kernel.
		extended += ",assume_storage_prezeroed=1"
	} else {
		extended += ",lazy_itable_init=1,lazy_journal_init=0"
	}
	return []string{
		"-q", "-F", "-t", "ext4", "-b", "4096", "-m", "1", "-e", "remount-ro",
		"-L", privateLabel, "-J", "size=" + journal, "-E", extended, path,
	}
}

// punch makes the whole disk except its mark read as zeros and take no space on the host. It returns false if the disk
// does not support that.
func punch(device *os.File, size int64) (zeroed bool, err error) {
	if _, err := device.WriteAt(make([]byte, copyBlock-markSize), markSize); err != nil {
		return false, err
	}
	err = unix.Fallocate(int(device.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, copyBlock,
		size/copyBlock*copyBlock-copyBlock)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("zero %s: %w", device.Name(), err)
	}
	return true, nil
}

// copyBlock is the unit of copying, and ext4's block size: the superblock lies in the first one.
const copyBlock = 4096

// copyImage copies what mkfs wrote, the first block after everything else is on the disk.
func copyImage(device, image *os.File, size int64, zeroed bool) error {
	block, zeros := make([]byte, copyBlock), make([]byte, copyBlock)
	for offset := int64(0); ; {
		start, err := unix.Seek(int(image.Fd()), offset, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", image.Name(), err)
		}
		end, err := unix.Seek(int(image.Fd()), start, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("read %s: %w", image.Name(), err)
		}
		for offset = start / copyBlock * copyBlock; offset < end; offset += copyBlock {
			n, err := image.ReadAt(block[:min(copyBlock, size-offset)], offset)
			if err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("read %s: %w", image.Name(), err)
			}
			if offset == 0 || zeroed && bytes.Equal(block[:n], zeros[:n]) {
				continue
			}
			if _, err := device.WriteAt(block[:n], offset); err != nil {
				return err
			}
		}
	}
	if err := device.Sync(); err != nil {
		return err
	}
	if _, err := image.ReadAt(block, 0); err != nil {
		return fmt.Errorf("read %s: %w", image.Name(), err)
	}
	if _, err := device.WriteAt(block[markSize:], markSize); err != nil {
		return err
	}
	return device.Sync()
}

// writeMark writes the first sector and waits until it is on the disk.
func writeMark(device *os.File, mark string) error {
	if _, err := device.WriteAt(markSector(mark), 0); err != nil {
		return fmt.Errorf("mark %s: %w", device.Name(), err)
	}
	if err := device.Sync(); err != nil {
		return fmt.Errorf("mark %s: %w", device.Name(), err)
	}
	return nil
}

// completeDisk marks a disk complete. The disk must not be mounted, so that ext4 and this write cannot meet in
// the block that holds both superblock and mark.
func completeDisk(node string) (err error) {
	device, err := os.OpenFile(node, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return fmt.Errorf("complete private disk: %w", err)
	}
	defer func() { err = errors.Join(err, device.Close()) }()
	return writeMark(device, markComplete)
}

// privateDirectories creates the directories that AssembleRoot and the agent need, besides the seeded trees.
func privateDirectories(private string) error {
	for _, directory := range []struct {
		path string
		mode os.FileMode
	}{
		{".", 0o700},
		{"root", 0o700},
		{mounts.RootUpper, 0o755},
		{mounts.RootWork, 0o700},
		{"sharedos", 0o700},
	} {
		path := filepath.Join(private, directory.path)
		if err := os.MkdirAll(path, directory.mode); err != nil {
			return fmt.Errorf("prepare private disk: %w", err)
		}
		if err := os.Chmod(path, directory.mode); err != nil {
			return fmt.Errorf("prepare private disk: %w", err)
		}
	}
	return nil
}

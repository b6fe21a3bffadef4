package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// privateOptions are mount options. With discard the host gets back the space of files that the VM deletes.
const privateOptions = "discard"

// growStep is the smallest difference in bytes for which the file system is grown.
const growStep = 1 << 20

// ext4ResizeFS is EXT4_IOC_RESIZE_FS of the kernel's fs/ext4/ext4.h: _IOW('f', 16, __u64), the new size in blocks.
const ext4ResizeFS = 0x40086610

// privateDisk is the private disk as found at boot.
type privateDisk struct {
	mounts.Disk
	state diskState
	super superblock
}

// findPrivateDisk waits for the disk and reads its state. A disk that may not be used is an error.
func findPrivateDisk(ctx context.Context, serial string) (privateDisk, error) {
	disk, err := mounts.WaitForDisk(ctx, serial)
	if err != nil {
		return privateDisk{}, fmt.Errorf("private disk: %w", err)
	}
	if disk.ReadOnly {
		return privateDisk{}, fmt.Errorf("private disk %s is attached read-only", disk.Node)
	}
	head, err := readHead(disk.Node)
	if err != nil {
		return privateDisk{}, err
	}
	state, super := classifyDisk(head)
	if err := state.usable(disk.Node); err != nil {
		return privateDisk{}, err
	}
	return privateDisk{Disk: disk, state: state, super: super}, nil
}

// check repairs a file system that the kernel found inconsistent earlier. The kernel itself replays ext4's journal when
// it mounts the file system.
func (d privateDisk) check(ctx context.Context, lower lowerTree) error {
	if !d.super.errors {
		return nil
	}
	say("private disk %s has errors: checking it", d.Node)
	err := lower.run(ctx, "e2fsck", "-p", d.Node)
	var exit interface{ ExitCode() int }
	// 1: errors corrected, 2: corrected and a reboot advised if the file system was mounted, which it is not.
	if errors.As(err, &exit) && (exit.ExitCode() == 1 || exit.ExitCode() == 2) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check private disk: %w: repair it on the host with e2fsck", err)
	}
	return nil
}

// mount mounts the disk at mounts.PrivateDir, and grows the file system if the disk was grown.
func (d privateDisk) mount() error {
	if err := os.MkdirAll(mounts.PrivateDir, 0o700); err != nil {
		return fmt.Errorf("mount private disk: %w", err)
	}
	if err := unix.Mount(d.Node, mounts.PrivateDir, "ext4", 0, privateOptions); err != nil {
		return fmt.Errorf("mount private disk %s: %w", d.Node, err)
	}
	if d.super.size > 0 && d.Size-d.super.size >= growStep {
		if err := GrowPrivate(d.Size); err != nil {
			// A smaller file system is no reason not to boot.
			say("%v", err)
		}
	}
	return nil
}

// GrowPrivate grows the mounted private file system to size bytes, rounded down to its blocks.
func GrowPrivate(size int64) (err error) {
	directory, err := openDirectory(unix.AT_FDCWD, mounts.PrivateDir)
	if err != nil {
		return fmt.Errorf("grow private disk: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(directory)) }()
	blocks := uint64(size / copyBlock)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(directory), ext4ResizeFS,
		uintptr(unsafe.Pointer(&blocks))); errno != 0 {
		return fmt.Errorf("grow private disk to %d bytes: %w", size, errno)
	}
	return nil
}

// make formats and seeds a disk that was never complete, and mounts it.
func (d privateDisk) make(ctx context.Context, lower lowerTree, stack release.Stack, watch *stopwatch) error {
	if d.state == diskUnfinished {
		say("private disk %s was not finished when the VM stopped: making it again", d.Node)
	}
	if err := formatDisk(ctx, lower, d.Disk); err != nil {
		return err
	}
	watch.done("format")
	if err := d.mount(); err != nil {
		return err
	}
	if err := privateDirectories(mounts.PrivateDir); err != nil {
		return err
	}
	if err := rootMetadata(string(lower), filepath.Join(mounts.PrivateDir, mounts.RootUpper)); err != nil {
		return err
	}
	if _, err := Seed(string(lower), mounts.PrivateDir, stack); err != nil {
		return err
	}
	watch.done("seed")
	if err := unix.Unmount(mounts.PrivateDir, 0); err != nil {
		return fmt.Errorf("unmount private disk: %w", err)
	}
	if err := completeDisk(d.Node); err != nil {
		return err
	}
	return d.mount()
}

// rootMetadata copies owner, mode and attributes of the root directory to the upper directory, from which the root
// overlay takes them.
func rootMetadata(lower, upper string) (err error) {
	source, err := unix.Open(lower, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("copy root's metadata: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(source)) }()
	var stat unix.Stat_t
	if err := unix.Fstat(source, &stat); err != nil {
		return fmt.Errorf("copy root's metadata: %w", err)
	}
	if err := copyMetadata(source, unix.AT_FDCWD, upper, stat); err != nil {
		return fmt.Errorf("copy root's metadata: %w", err)
	}
	return nil
}

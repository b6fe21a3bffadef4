package disks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

const (
	// ext4Resize is EXT4_IOC_RESIZE_FS of the kernel's fs/ext4/ext4.h: _IOW('f', 16, __u64), the new size in blocks.
	ext4Resize = 0x40086610
	// xfsGrow is XFS_IOC_FSGROWFSDATA of fs/xfs/libxfs/xfs_fs.h: _IOW('X', 110, struct xfs_growfs_data).
	xfsGrow = 0x4010586e
	// superBytes of a disk have the superblocks of both file systems.
	superBytes = 4096
)

// xfsGrowData is struct xfs_growfs_data.
type xfsGrowData struct {
	blocks uint64
	// percent is the share of inodes, which stays.
	percent uint32
	_       uint32
}

// geometry is what a superblock says.
type geometry struct {
	blockSize, blocks uint64
	percent           uint32
}

var errSuperblock = errors.New("it has no superblock of this file system")

// geometryOf reads the superblock of a file system in the first bytes of its disk. See the kernel's
// Documentation/filesystems/ext4/super.rst, and struct xfs_dsb in fs/xfs/libxfs/xfs_format.h.
func geometryOf(system string, head []byte) (geometry, error) {
	if len(head) < superBytes {
		return geometry{}, errSuperblock
	}
	if system == agentapi.XFS {
		found := geometry{
			blockSize: uint64(binary.BigEndian.Uint32(head[4:])), blocks: binary.BigEndian.Uint64(head[8:]),
			percent: uint32(head[127]),
		}
		if string(head[:4]) != "XFSB" || found.blockSize < 512 || found.blockSize > 64<<10 || found.blocks == 0 {
			return geometry{}, errSuperblock
		}
		return found, nil
	}
	super := head[1024:2048]
	shift := binary.LittleEndian.Uint32(super[0x18:]) + 10
	if binary.LittleEndian.Uint16(super[0x38:]) != 0xEF53 || shift > 16 {
		return geometry{}, errSuperblock
	}
	blocks := uint64(binary.LittleEndian.Uint32(super[0x4:]))
	if binary.LittleEndian.Uint32(super[0x60:])&0x80 != 0 { // INCOMPAT_64BIT
		blocks |= uint64(binary.LittleEndian.Uint32(super[0x150:])) << 32
	}
	return geometry{blockSize: 1 << shift, blocks: blocks}, nil
}

// Grow grows a mounted file system to its disk of size bytes. It does nothing if the file system fills the disk.
func Grow(node, system, point string, size int64) (err error) {
	what := "grow the file system at " + point
	head := make([]byte, superBytes)
	disk, err := os.Open(node)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	_, err = disk.ReadAt(head, 0)
	if err = errors.Join(err, disk.Close()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	has, err := geometryOf(system, head)
	if err != nil {
		return fmt.Errorf("%s: disk %s: %w", what, node, err)
	}
	blocks := uint64(size) / has.blockSize //nolint:gosec // a size is positive
	if blocks <= has.blocks {
		return nil
	}
	mounted, err := unix.Open(point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer func() { err = errors.Join(err, unix.Close(mounted)) }()
	var errno unix.Errno
	if system == agentapi.XFS {
		request := xfsGrowData{blocks: blocks, percent: has.percent}
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(mounted), xfsGrow, uintptr(unsafe.Pointer(&request)))
	} else {
		_, _, errno = unix.Syscall(unix.SYS_IOCTL, uintptr(mounted), ext4Resize, uintptr(unsafe.Pointer(&blocks)))
	}
	if errno != 0 {
		return fmt.Errorf("%s to %d bytes: %w", what, size, errno)
	}
	return nil
}

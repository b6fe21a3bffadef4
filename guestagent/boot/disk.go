package boot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// diskHead is how many bytes at the start of a private disk show what it is.
const diskHead = 1 << 20

// markSize is one sector, which is written atomically.
const markSize = 512

// The mark is in the first sector of a private disk, which ext4 leaves to boot loaders. It distinguishes a disk that
// was being formatted when power was cut, which may be formatted again, from one that was complete, which may not.
const (
	markFormatting = "sharedos private disk, version 1: formatting\n"
	markComplete   = "sharedos private disk, version 1: complete\n"
)

// diskState is the state of a private disk, as its head shows it.
type diskState int

const (
	// diskBlank has nothing but zeros in its head.
	diskBlank diskState = iota + 1
	// diskUnfinished was being formatted or seeded when that was interrupted.
	diskUnfinished
	// diskComplete holds the VM's own files.
	diskComplete
	// diskDamaged was complete once and has lost its superblock.
	diskDamaged
	// diskForeign has data that this project did not write.
	diskForeign
)

func (s diskState) String() string {
	switch s {
	case diskBlank:
		return "blank"
	case diskUnfinished:
		return "unfinished"
	case diskComplete:
		return "complete"
	case diskDamaged:
		return "damaged"
	case diskForeign:
		return "foreign"
	default:
		return fmt.Sprintf("disk state %d", int(s))
	}
}

// superblock has the relevant fields of ext4's superblock; see the kernel's Documentation/filesystems/ext4/super.rst.
type superblock struct {
	// size of the file system in bytes.
	size int64
	// errors is true when the kernel found inconsistencies that a replay of ext4's journal does not repair.
	errors bool
}

const (
	superOffset     = 1024
	superSize       = 1024
	superMagic      = 0xEF53
	superErrorState = 0x2
	incompat64Bit   = 0x80
)

// classifyDisk returns the state of a disk by its first bytes. The superblock is set for diskComplete.
func classifyDisk(head []byte) (diskState, superblock) {
	super, isExt4 := parseSuperblock(head)
	switch mark := markOf(head); {
	case mark == markFormatting:
		return diskUnfinished, superblock{}
	case mark == markComplete && isExt4:
		return diskComplete, super
	case mark == markComplete:
		return diskDamaged, superblock{}
	case len(bytes.Trim(head, "\x00")) == 0:
		return diskBlank, superblock{}
	default:
		return diskForeign, superblock{}
	}
}

// markOf returns the mark in the first sector, or "".
func markOf(head []byte) string {
	if len(head) < markSize {
		return ""
	}
	text := string(bytes.TrimRight(head[:markSize], "\x00"))
	if text == markFormatting || text == markComplete {
		return text
	}
	return ""
}

func markSector(mark string) []byte {
	sector := make([]byte, markSize)
	copy(sector, mark)
	return sector
}

func parseSuperblock(head []byte) (superblock, bool) {
	if len(head) < superOffset+superSize {
		return superblock{}, false
	}
	raw := head[superOffset : superOffset+superSize]
	if binary.LittleEndian.Uint16(raw[0x38:]) != superMagic {
		return superblock{}, false
	}
	blocks := uint64(binary.LittleEndian.Uint32(raw[0x4:]))
	if binary.LittleEndian.Uint32(raw[0x60:])&incompat64Bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(raw[0x150:])) << 32
	}
	blockShift := binary.LittleEndian.Uint32(raw[0x18:]) + 10
	if blockShift > 16 || blocks == 0 || blocks > 1<<46 {
		return superblock{}, false
	}
	return superblock{
		size:   int64(blocks << blockShift),
		errors: binary.LittleEndian.Uint16(raw[0x3A:])&superErrorState != 0,
	}, true
}

// readHead reads the first bytes of a disk.
func readHead(node string) (head []byte, err error) {
	disk, err := os.Open(node)
	if err != nil {
		return nil, fmt.Errorf("read private disk: %w", err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	head = make([]byte, diskHead)
	if _, err := io.ReadFull(disk, head); err != nil {
		return nil, fmt.Errorf("read the first %d bytes of private disk %s: %w", diskHead, node, err)
	}
	return head, nil
}

// usable returns an error if a disk in this state cannot be used.
func (s diskState) usable(node string) error {
	switch s {
	case diskForeign:
		return fmt.Errorf("private disk %s has data that this project did not write, so it is not formatted: "+
			"give the VM another disk, or wipe this one on the host if its data may go", node)
	case diskDamaged:
		return fmt.Errorf("private disk %s was complete once and has lost its ext4 superblock: "+
			"restore it, or repair it on the host with e2fsck -b 32768", node)
	default:
		return nil
	}
}

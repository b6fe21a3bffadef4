package diskimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf16"
)

// partition is one partition of a disk.
type partition struct {
	// number is the kernel's number of the partition.
	number int
	// kind is the type GUID in a GPT, in upper case, or the type in an MBR: "0x83".
	kind string
	// name is set in a GPT only.
	name string
	// offset and size are in bytes.
	offset, size int64
}

func (p partition) String() string {
	text := fmt.Sprintf("%d (type %s, %d MiB", p.number, p.kind, p.size>>20)
	if p.name != "" {
		text += fmt.Sprintf(", name %q", p.name)
	}
	return text + ")"
}

// Partition types: GUIDs and MBR numbers (UAPI Discoverable Partitions Specification; UEFI specification 2.10, section
// 5).
const (
	gptLinux    = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	gptBoot     = "BC13C2FF-59E6-4262-A352-B275FD6F7172" // XBOOTLDR: mounted at /boot
	mbrLinux    = "0x83"
	mbrGPT      = "0xEE"
	mbrExtended = "0x05 0x0F 0x85"
)

// gptRoot has the types of root file systems by architecture.
var gptRoot = map[string]string{
	"amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
	"arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
}

// errTable means that there is a partition table and it is inconsistent.
var errTable = errors.New("the partition table is damaged")

// readTable reads the partition table of a disk, whose size is in bytes: a GPT, or an MBR with primary partitions. The
// result is empty if there is none.
//
// It is code of ours although go-diskfs reads such tables, too. go-diskfs 1.9 panics if a header declares a huge array
// of entries, accepts only headers of 92 bytes and entries of 128, and checks neither that partitions are inside the
// disk nor which sector size it has. Checking all that first takes as many lines as reading the table.
func readTable(disk io.ReaderAt, size int64) ([]partition, error) {
	for _, sector := range []int64{512, 4096} {
		header := make([]byte, 512)
		if _, err := disk.ReadAt(header, sector); err != nil {
			break // the disk is too small for a GPT
		}
		if bytes.HasPrefix(header, []byte("EFI PART")) {
			return readGPT(disk, size, sector, header)
		}
	}
	return readMBR(disk, size)
}

// maxPartitions bounds the entries of a GPT.
const maxPartitions = 1024

func readGPT(disk io.ReaderAt, size, sector int64, header []byte) ([]partition, error) {
	length := binary.LittleEndian.Uint32(header[12:])
	if length < 92 || length > 512 {
		return nil, fmt.Errorf("GPT header of %d bytes: %w", length, errTable)
	}
	sum := binary.LittleEndian.Uint32(header[16:])
	clear(header[16:20])
	if crc32.ChecksumIEEE(header[:length]) != sum {
		return nil, fmt.Errorf("checksum of the GPT header: %w", errTable)
	}
	first := binary.LittleEndian.Uint64(header[72:])
	count, each := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
	if count > maxPartitions || each < 128 || each > 4096 || first > uint64(size/sector) {
		return nil, fmt.Errorf("GPT of %d entries of %d bytes at sector %d: %w", count, each, first, errTable)
	}
	entries := make([]byte, count*each)
	if _, err := disk.ReadAt(entries, int64(first)*sector); err != nil {
		return nil, fmt.Errorf("read the entries of the GPT: %w: %w", errTable, err)
	}
	if crc32.ChecksumIEEE(entries) != binary.LittleEndian.Uint32(header[88:]) {
		return nil, fmt.Errorf("checksum of the entries of the GPT: %w", errTable)
	}
	var all []partition
	for i := range int(count) {
		e := entries[i*int(each):][:128]
		if bytes.Equal(e[:16], make([]byte, 16)) {
			continue
		}
		p := partition{number: i + 1, kind: guid(e[:16]), name: gptName(e[56:128])}
		from, to := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if from > to || to >= uint64(size/sector) {
			return nil, fmt.Errorf("partition %d from sector %d to %d of %d: %w", p.number, from,
				to, size/sector, errTable)
		}
		p.offset, p.size = int64(from)*sector, int64(to-from+1)*sector
		all = append(all, p)
	}
	return all, nil
}

// guid formats a GUID. Its first three fields are little-endian.
func guid(b []byte) string {
	return fmt.Sprintf("%08X-%04X-%04X-%X-%X", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

func gptName(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		unit := binary.LittleEndian.Uint16(b[i:])
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

func readMBR(disk io.ReaderAt, size int64) ([]partition, error) {
	sector := make([]byte, 512)
	if _, err := disk.ReadAt(sector, 0); err != nil || sector[510] != 0x55 || sector[511] != 0xAA {
		return nil, nil // no table
	}
	var all []partition
	for i := range 4 {
		e := sector[446+16*i:][:16]
		p := partition{number: i + 1, kind: fmt.Sprintf("0x%02X", e[4])}
		p.offset = int64(binary.LittleEndian.Uint32(e[8:])) * 512
		p.size = int64(binary.LittleEndian.Uint32(e[12:])) * 512
		if e[4] == 0 || p.size == 0 {
			continue
		}
		if p.kind == mbrGPT {
			return nil, fmt.Errorf("the MBR announces a GPT, and there is none: %w", errTable)
		}
		if e[0]&0x7f != 0 {
			return nil, nil // it is not a table but the boot code of a file system
		}
		if p.offset+p.size > size {
			return nil, fmt.Errorf("partition %d ends %d bytes after the end of the disk: %w", p.number,
				p.offset+p.size-size, errTable)
		}
		if !strings.Contains(mbrExtended, p.kind) {
			all = append(all, p)
		}
	}
	return all, nil
}

// A fileSystem is a supported file system, with the bytes that identify it.
type fileSystem struct {
	name   string
	offset int64
	magic  string
}

var fileSystems = []fileSystem{
	{"ext4", 1080, "\x53\xef"}, // also ext2 and ext3, which the kernel mounts as ext4
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"squashfs", 0, "hsqs"},
}

// fileSystemOf returns the name of the file system at an offset; empty if it is not a supported one.
func fileSystemOf(disk io.ReaderAt, offset int64) string {
	for _, f := range fileSystems {
		magic := make([]byte, len(f.magic))
		if _, err := disk.ReadAt(magic, offset+f.offset); err == nil && string(magic) == f.magic {
			return f.name
		}
	}
	return ""
}

// roots are the partitions of a root file system.
type roots struct {
	root partition
	// boot is mounted at /boot; nil if there is none.
	boot *partition
}

// findRoots selects the partition of the root file system: the one with the given number; or else the one whose type
// says so; or else the only one of the general Linux type. Without a partition table, it is the whole disk.
func findRoots(disk io.ReaderAt, size int64, number int, architecture string) (roots, error) {
	table, err := readTable(disk, size)
	if err != nil {
		return roots{}, err
	}
	whole := partition{size: size, kind: "none"}
	if len(table) == 0 {
		if number != 0 {
			return roots{}, fmt.Errorf("it has no partition %d: there is no partition table", number)
		}
		if fileSystemOf(disk, 0) == "" {
			return roots{}, errors.New(
				"it has neither a partition table nor a supported file system (ext4, xfs, btrfs)")
		}
		return roots{root: whole}, nil
	}
	var found roots
	var named, general []partition
	var list []string
	for _, p := range table {
		list = append(list, p.String())
		switch {
		case number != 0:
			if p.number == number {
				named = append(named, p)
			}
		case p.kind == gptRoot[architecture]:
			named = append(named, p)
		case p.kind == gptLinux || p.kind == mbrLinux:
			general = append(general, p)
		}
		if p.kind == gptBoot && fileSystemOf(disk, p.offset) != "" {
			found.boot = &p
		}
	}
	candidates := named
	if len(candidates) == 0 && number == 0 {
		candidates = general
	}
	what := "it is not clear which partition holds the root file system: set its number"
	if number != 0 {
		what = fmt.Sprintf("it has no partition %d", number)
	}
	if len(candidates) != 1 {
		return roots{}, fmt.Errorf("%s; there are %s", what, strings.Join(list, ", "))
	}
	found.root = candidates[0]
	if found.boot != nil && found.boot.number == found.root.number {
		found.boot = nil
	}
	return found, nil
}

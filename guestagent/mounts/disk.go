package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoDisk means that no disk with the serial is attached.
var ErrNoDisk = errors.New("no such disk is attached")

const (
	sysBlock = "/sys/block"
	// sectorSize is the unit of /sys/block/*/size, whatever the device's own block size is.
	sectorSize = 512
	// diskPoll is short compared with a boot. Each poll reads a dozen small files.
	diskPoll = 10 * time.Millisecond
)

// Disk is one attached disk that has a serial.
type Disk struct {
	// Node is the device node, "/dev/vdb".
	Node string
	// Number is "major:minor".
	Number string
	Serial string
	// Size in bytes.
	Size     int64
	ReadOnly bool
}

// Disks lists the attached disks that have a serial, sorted by node.
func Disks() ([]Disk, error) { return disksIn(sysBlock) }

func disksIn(sys string) ([]Disk, error) {
	entries, err := os.ReadDir(sys)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	var disks []Disk
	for _, entry := range entries {
		disk, err := readDisk(filepath.Join(sys, entry.Name()))
		// The disk was unplugged meanwhile: ENOENT, or ENODEV from an attribute that was open.
		if errors.Is(err, fs.ErrNotExist) || isNoDevice(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		disks = append(disks, disk)
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Node, b.Node) })
	return disks, nil
}

// readDisk reads one directory of /sys/block.
func readDisk(directory string) (Disk, error) {
	serial, err := readAttribute(directory, "serial")
	if err != nil {
		return Disk{}, err
	}
	number, err := readAttribute(directory, "dev")
	if err != nil {
		return Disk{}, err
	}
	sectors, err := readAttribute(directory, "size")
	if err != nil {
		return Disk{}, err
	}
	readOnly, err := readAttribute(directory, "ro")
	if err != nil {
		return Disk{}, err
	}
	count, err := strconv.ParseInt(sectors, 10, 64)
	if err != nil || count < 0 || count > (1<<62)/sectorSize {
		return Disk{}, fmt.Errorf("size of disk %s: %q is not a count of sectors", filepath.Base(directory), sectors)
	}
	return Disk{
		Node:     "/dev/" + strings.ReplaceAll(filepath.Base(directory), "!", "/"),
		Number:   number,
		Serial:   serial,
		Size:     count * sectorSize,
		ReadOnly: readOnly == "1",
	}, nil
}

func readAttribute(directory, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		return "", err
	}
	return strings.Trim(string(data), " \n\x00"), nil
}

// WaitForDisk returns the disk with a serial as soon as the kernel shows it. When ctx ends first it returns ErrNoDisk.
// Two disks with the same serial are an error at once.
func WaitForDisk(ctx context.Context, serial string) (Disk, error) {
	ticker := time.NewTicker(diskPoll)
	defer ticker.Stop()
	for {
		disks, err := Disks()
		if err != nil {
			return Disk{}, err
		}
		disk, err := pickDisk(disks, serial)
		if !errors.Is(err, ErrNoDisk) {
			return disk, err
		}
		select {
		case <-ctx.Done():
			return Disk{}, fmt.Errorf("wait for disk %q (%w); attached are %s: %w", serial,
				context.Cause(ctx), serialsOf(disks), err)
		case <-ticker.C:
		}
	}
}

// pickDisk returns the one disk with a serial.
func pickDisk(disks []Disk, serial string) (Disk, error) {
	found := slices.DeleteFunc(slices.Clone(disks), func(d Disk) bool { return d.Serial != serial })
	switch len(found) {
	case 0:
		return Disk{}, fmt.Errorf("disk %q: %w", serial, ErrNoDisk)
	case 1:
		return found[0], nil
	default:
		return Disk{}, fmt.Errorf("disk %q: both %s and %s have this serial", serial, found[0].Node, found[1].Node)
	}
}

func serialsOf(disks []Disk) string {
	if len(disks) == 0 {
		return "none"
	}
	serials := make([]string, len(disks))
	for i, disk := range disks {
		serials[i] = strconv.Quote(disk.Serial)
	}
	return strings.Join(serials, ", ")
}

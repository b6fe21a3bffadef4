package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrNoDisk means that no disk of the serial is attached.
var ErrNoDisk = errors.New("no such disk is attached")

const (
	sysBlock = "/sys/block"
	// sectorSize is the unit of /sys/block/*/size, whatever the device's own block size is.
	sectorSize = 512
	// serialDigits is how many digits of a layer's id its serial holds: virtio-blk has room for 20 bytes.
	serialDigits = 20
	// diskPoll is short next to a boot, and a poll reads a dozen small files.
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

// LayerSerial is the serial of the disk that holds a layer: the first 20 hexadecimal digits of its id.
func LayerSerial(id tree.Digest) string { return id.Hex()[:serialDigits] }

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
		// A disk that is unplugged while it is looked at is not there: ENOENT, or ENODEV from an open attribute.
		if errors.Is(err, fs.ErrNotExist) || isNoDevice(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		disks = append(disks, disk)
	}
	sort.Slice(disks, func(i, j int) bool { return disks[i].Node < disks[j].Node })
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

// WaitForDisk returns the disk of a serial as soon as the kernel shows it. It waits until ctx ends and then
// returns ErrNoDisk; two disks of one serial are an error at once.
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
			return Disk{}, fmt.Errorf("wait for disk %q (%w), attached are %s: %w", serial, context.Cause(ctx), serialsOf(disks), err)
		case <-ticker.C:
		}
	}
}

// pickDisk finds the one disk of a serial.
func pickDisk(disks []Disk, serial string) (Disk, error) {
	var found []Disk
	for _, disk := range disks {
		if disk.Serial == serial {
			found = append(found, disk)
		}
	}
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

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// privateDisk describes a private disk. What the guest discards or overwrites with zeros is freed on the host.
func privateDisk(path, target string) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw", Cache: "none",
			Discard: "unmap", DetectZeros: "unmap"},
		Source: diskSource(path),
		Target: &libvirtxml.DomainDiskTarget{Dev: target, Bus: "virtio"},
		Serial: agentapi.PrivateDiskSerial,
	}
}

func privateDiskOf(devices *libvirtxml.DomainDeviceList) string {
	for _, disk := range devices.Disks {
		if disk.Serial == agentapi.PrivateDiskSerial {
			return sourcePath(disk)
		}
	}
	return ""
}

// IsDevice reports whether a volume with this path is a block device. Everything in /dev is a
// device on Linux, except for the files of shared memory.
func IsDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

func diskSource(path string) *libvirtxml.DomainDiskSource {
	if IsDevice(path) {
		return &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: path}}
	}
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
}

func sourcePath(disk libvirtxml.DomainDisk) string {
	switch {
	case disk.Source == nil:
		return ""
	case disk.Source.File != nil:
		return disk.Source.File.File
	case disk.Source.Block != nil:
		return disk.Source.Block.Dev
	}
	return ""
}

// targetName is the i-th name of a disk in Linux's order: vda to vdz, vdaa and so on.
func targetName(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('a'+(i-1)%26)) + name
	}
	return "vd" + name
}

// ResizeDisk implements Hypervisor.
func (h *Libvirt) ResizeDisk(ctx context.Context, name, disk string, size int64) error {
	what := fmt.Sprintf("resize disk %q of domain %q", disk, name)
	wanted := func(one libvirtxml.DomainDisk) bool {
		has, ok := diskNameOf(one)
		return ok && has == disk
	}
	if disk == "" {
		what = fmt.Sprintf("resize the private disk of domain %q", name)
		wanted = func(one libvirtxml.DomainDisk) bool { return one.Serial == agentapi.PrivateDiskSerial }
	}
	if size <= 0 {
		return fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		if !found.state.alive() {
			return ErrNotRunning
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil {
			return err
		}
		if live.Devices == nil {
			return errors.New("it has no devices")
		}
		for _, disk := range live.Devices.Disks {
			if disk.Target == nil || !wanted(disk) {
				continue
			}
			// This is the size that QEMU and the guest know. The volume may be larger already.
			_, capacity, _, err := l.DomainGetBlockInfo(found.Domain, disk.Target.Dev, 0)
			if err != nil {
				return err
			}
			if capacity >= uint64(size) {
				return nil
			}
			return l.DomainBlockResize(found.Domain, disk.Target.Dev, uint64(size), libvirt.DomainBlockResizeBytes)
		}
		return ErrNoDisk
	})
}

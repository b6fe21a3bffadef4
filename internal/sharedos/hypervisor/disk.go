package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// MaxDisks is how many further disks a domain can have. Each takes a PCIe root port, as layers do.
const MaxDisks = 16

// diskAlias begins the alias of a further disk. libvirt keeps aliases that begin with "ua-".
const diskAlias = "ua-disk-"

// The formats of the volume of a further disk. QEMU is always told the format: a guest could write
// the header of another one.
const (
	FormatRaw   = "raw"
	FormatQCOW2 = "qcow2"
)

// DiskFormats, DiskCaches and DiskDiscards are the values of a DiskDevice, the default of each first.
var (
	DiskFormats  = []string{FormatRaw, FormatQCOW2}
	DiskCaches   = []string{"none", "writeback", "writethrough", "directsync", "unsafe"}
	DiskDiscards = []string{"unmap", "ignore"}
)

// DiskDevice is how QEMU gives a further disk to a guest.
type DiskDevice struct {
	// Format, Cache and Discard are each one of the values above.
	Format, Cache, Discard string
	// Serial is by which the guest finds the disk: /dev/disk/by-id/virtio-<serial>.
	Serial   string
	ReadOnly bool
}

// Disk is a further disk in a definition.
type Disk struct {
	// Path of its volume on the host.
	Path string
	DiskDevice
}

// DiskRecord is what the metadata of a domain says about a further disk.
type DiskRecord struct {
	DiskDevice
	// Pool and Volume name its volume. Given is true if the volume was there before: it is never grown or deleted.
	Pool, Volume string
	Given        bool `json:",omitempty"`
	// Size in bytes as it was asked for; 0 if the volume was given.
	Size int64 `json:",omitempty"`
	// Making is true until the VM has the disk: its volume may be there or not.
	Making bool `json:",omitempty"`
	// Protected is true while the disk must not be deleted.
	Protected bool `json:",omitempty"`
	// FileSystem and MountPoint say what the guest makes of it; "" if it makes nothing.
	FileSystem string `json:",omitempty"`
	MountPoint string `json:",omitempty"`
}

// diskName is short enough to be a serial, and fits into an alias.
var diskName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,19}$`)

// CheckDiskName returns why a text cannot name a further disk of a domain.
func CheckDiskName(name string) error {
	if !diskName.MatchString(name) {
		return fmt.Errorf("%q is not a name of 1 to %d letters, digits, _ and -, starting with a letter or digit", name,
			maxSerial)
	}
	return nil
}

// hexSerial is the form of the serials of layers.
var hexSerial = regexp.MustCompile(`^[0-9a-f]{20}$`)

// CheckDiskSerial returns why a text cannot be the serial of a further disk. The serials of layers,
// of offers and of the private disk are taken.
func CheckDiskSerial(serial string) error {
	switch {
	case !diskName.MatchString(serial):
		return fmt.Errorf("%q is not a serial of 1 to %d letters, digits, _ and -, starting with a letter or digit",
			serial, maxSerial)
	case serial == agentapi.PrivateDiskSerial || strings.HasPrefix(serial, agentapi.OfferSerialPrefix) ||
		hexSerial.MatchString(serial):
		return fmt.Errorf("%q has the form of the serials of the private disk and of layers", serial)
	}
	return nil
}

// check verifies one further disk.
func (d Disk) check() error {
	return errors.Join(checkPath(d.Path), CheckDiskSerial(d.Serial),
		checkOneOf("format", d.Format, DiskFormats), checkOneOf("cache", d.Cache, DiskCaches),
		checkOneOf("discard", d.Discard, DiskDiscards))
}

func checkOneOf(what, value string, all []string) error {
	if !slices.Contains(all, value) {
		return fmt.Errorf("%s %q is none of %q", what, value, all)
	}
	return nil
}

// checkDisks verifies all further disks of a domain.
func checkDisks(disks map[string]Disk) (wrong []error) {
	if len(disks) > MaxDisks {
		wrong = append(wrong, fmt.Errorf("%d further disks, and a VM can have at most %d", len(disks), MaxDisks))
	}
	serials := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(disks)) {
		if err := errors.Join(CheckDiskName(name), disks[name].check()); err != nil {
			wrong = append(wrong, fmt.Errorf("disk %q: %w", name, err))
		}
		serial := disks[name].Serial
		if other, twice := serials[serial]; twice {
			wrong = append(wrong, fmt.Errorf("disks %q and %q have the same serial %s", other, name, serial))
		}
		serials[serial] = name
	}
	return wrong
}

// device describes the disk.
func (d Disk) device(name, target string) libvirtxml.DomainDisk {
	disk := libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: d.Format, Cache: d.Cache, Discard: d.Discard},
		Source: diskSource(d.Path),
		Target: &libvirtxml.DomainDiskTarget{Dev: target, Bus: "virtio"},
		Serial: d.Serial,
		Alias:  &libvirtxml.DomainAlias{Name: diskAlias + name},
	}
	if d.Discard == "unmap" {
		disk.Driver.DetectZeros = "unmap"
	}
	if d.ReadOnly {
		disk.ReadOnly = &libvirtxml.DomainDiskReadOnly{}
	}
	return disk
}

// diskNameOf returns the name of the further disk that a device is; false if it is none.
func diskNameOf(disk libvirtxml.DomainDisk) (string, bool) {
	if disk.Alias == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(disk.Alias.Name, diskAlias)
	return name, ok && diskName.MatchString(name)
}

// decodeDisks reads the further disks of a definition, and those that others have added.
func (d *Domain) decodeDisks(devices *libvirtxml.DomainDeviceList) error {
	for _, disk := range devices.Disks {
		name, ours := diskNameOf(disk)
		_, layer := layerIDOf(disk)
		switch {
		case ours:
			one := Disk{Path: sourcePath(disk), DiskDevice: DiskDevice{
				Format: DiskFormats[0], Cache: DiskCaches[0], Discard: DiskDiscards[0], Serial: disk.Serial,
				ReadOnly: disk.ReadOnly != nil,
			}}
			if disk.Driver != nil {
				one.Format, one.Cache, one.Discard = disk.Driver.Type, disk.Driver.Cache, disk.Driver.Discard
			}
			if d.Disks == nil {
				d.Disks = map[string]Disk{}
			}
			d.Disks[name] = one
		case !layer && disk.Serial != agentapi.PrivateDiskSerial:
			if disk.Address != nil && disk.Address.PCI != nil {
				disk.Address = nil // libvirt finds one among the ports of the next definition
			}
			text, err := disk.Marshal()
			if err != nil {
				return fmt.Errorf("domain %q: read a disk that somebody has added: %w", d.Name, err)
			}
			d.ForeignDisks = append(d.ForeignDisks, text)
		}
	}
	return nil
}

// disks describes all disks of a domain.
func (d Domain) disks() ([]libvirtxml.DomainDisk, error) {
	var foreign []libvirtxml.DomainDisk
	used := map[string]bool{}
	for _, text := range d.ForeignDisks {
		var disk libvirtxml.DomainDisk
		if err := disk.Unmarshal(text); err != nil {
			return nil, fmt.Errorf("domain %q: write a disk that somebody has added: %w", d.Name, err)
		}
		if disk.Target != nil {
			used[disk.Target.Dev] = true
		}
		foreign = append(foreign, disk)
	}
	next := 0
	target := func() string {
		for used[targetName(next)] {
			next++
		}
		next++
		return targetName(next - 1)
	}
	var all []libvirtxml.DomainDisk
	if d.PrivateDisk != "" {
		all = append(all, privateDisk(d.PrivateDisk, target()))
	}
	for _, layer := range d.Layers {
		all = append(all, layer.disk(target()))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Disks)) {
		all = append(all, d.Disks[name].device(name, target()))
	}
	return append(all, foreign...), nil
}

// AttachDisk implements Hypervisor.
func (h *Libvirt) AttachDisk(ctx context.Context, name, disk string, device Disk) error {
	what := fmt.Sprintf("attach disk %q to domain %q", disk, name)
	if err := errors.Join(CheckDiskName(disk), device.check()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.attachDisk(ctx, what, name, diskAlias+disk, LayerPorts, func(definition *libvirtxml.Domain) error {
		found := Domain{}
		if definition.Devices == nil {
			return errors.New("its definition has no devices")
		}
		if err := found.decodeDisks(definition.Devices); err != nil {
			return err
		}
		disks := maps.Clone(found.Disks)
		if disks == nil {
			disks = map[string]Disk{}
		}
		disks[disk] = device
		return errors.Join(checkDisks(disks)...)
	}, func(target string) libvirtxml.DomainDisk { return device.device(disk, target) })
}

// attachDisk is attach for a disk, which device describes by its target.
func (h *Libvirt) attachDisk(ctx context.Context, what, name, alias string, reserved int,
	check func(*libvirtxml.Domain) error, device func(target string) libvirtxml.DomainDisk,
) error {
	return h.attach(ctx, what, name, alias, reserved, check, func(definitions []*libvirtxml.Domain) (string, error) {
		disk := device(freeTarget(definitions))
		return disk.Marshal()
	})
}

// freeTarget is the first name of a disk that no definition has.
func freeTarget(definitions []*libvirtxml.Domain) string {
	used := map[string]bool{}
	for _, definition := range definitions {
		if definition.Devices == nil {
			continue
		}
		for _, disk := range definition.Devices.Disks {
			if disk.Target != nil {
				used[disk.Target.Dev] = true
			}
		}
	}
	i := 0
	for used[targetName(i)] {
		i++
	}
	return targetName(i)
}

// DetachDisk implements Hypervisor.
func (h *Libvirt) DetachDisk(ctx context.Context, name, disk string) error {
	return h.detach(ctx, fmt.Sprintf("detach disk %q from domain %q", disk, name), name, diskAlias+disk)
}

// AttachedDisks implements Hypervisor.
func (h *Libvirt) AttachedDisks(ctx context.Context, name string) ([]string, error) {
	var names []string
	err := h.call(ctx, fmt.Sprintf("list the disks of domain %q", name), func(l *libvirt.Libvirt) error {
		names = nil
		found, err := find(l, name)
		switch {
		case err != nil:
			return err
		case !found.state.alive():
			return ErrNotRunning
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil || live.Devices == nil {
			return err
		}
		for _, disk := range live.Devices.Disks {
			if one, ok := diskNameOf(disk); ok {
				names = append(names, one)
			}
		}
		slices.Sort(names)
		return nil
	})
	return names, err
}

// RoomForDisks implements Hypervisor.
func (h *Libvirt) RoomForDisks(ctx context.Context, name string) (room int, err error) {
	err = h.call(ctx, fmt.Sprintf("ask for the free ports of domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		switch {
		case err != nil:
			return err
		case !found.state.alive():
			return ErrNotRunning
		}
		text, err := l.DomainGetXMLDesc(found.Domain, 0)
		if err != nil {
			return err
		}
		free, err := freePorts(text)
		room = max(0, free-LayerPorts)
		return err
	})
	return room, err
}

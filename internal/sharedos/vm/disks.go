package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

var (
	// ErrDiskInUse means that a further disk cannot be detached or unmounted, because something in the guest uses it.
	ErrDiskInUse = errors.New("the disk is in use in the guest")
	// ErrVolumeGone means that the volume of a further disk is not in its storage pool.
	ErrVolumeGone = errors.New("its volume is not in the storage pool")
	// ErrOtherDisk means that a further disk would have to become another one under its name.
	ErrOtherDisk = errors.New("a disk of another pool, volume or format is another disk")
)

// Disk is a further disk of a VM as the user wants it.
type Disk struct {
	hypervisor.DiskDevice
	// Pool is the storage pool of its volume; "" is that of the private disk.
	Pool string
	// Volume is an existing volume, which is never grown or deleted. It is "" for a disk of the
	// VM's own, which has Size bytes.
	Volume string
	Size   int64
	// Protected: neither the disk nor the VM is deleted.
	Protected bool
	// FileSystem is mounted at MountPoint in the guest, which makes it if the disk is empty; "" for none.
	FileSystem, MountPoint string
}

const (
	// disksLimit bounds the formatting, mounting and growing of disks in a guest.
	disksLimit = 5 * time.Minute
	// maxUsers is how many users of a disk an error names.
	maxUsers = 16
)

// DiskMoves are the changes of further disks while a VM runs, by their names, sorted.
type DiskMoves struct {
	Detach, Attach, Grow []string
	// Mount: the guest mounts or unmounts file systems.
	Mount bool
}

// Any reports whether something changes.
func (m DiskMoves) Any() bool { return len(m.Detach)+len(m.Attach)+len(m.Grow) > 0 || m.Mount }

// planDisks says how further disks change while the VM runs, and whether a power-off is needed instead.
func planDisks(have, want map[string]Disk) (moves DiskMoves, powerOff bool, err error) {
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, stays := want[name]; !stays {
			moves.Detach = append(moves.Detach, name)
			moves.Mount = moves.Mount || have[name].MountPoint != ""
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		is, old := have[name]
		to := want[name]
		moves.Mount = moves.Mount || is.FileSystem != to.FileSystem || is.MountPoint != to.MountPoint
		switch {
		case !old:
			moves.Attach = append(moves.Attach, name)
			continue
		case to.Size < is.Size && to.Volume == "" && is.Volume == "":
			return moves, false,
				fmt.Errorf("%w: disk %q has %d bytes and is to have %d", store.ErrShrink, name, is.Size, to.Size)
		case to.Size > is.Size:
			moves.Grow = append(moves.Grow, name)
		}
		powerOff = powerOff || is.DiskDevice != to.DiskDevice
	}
	return moves, powerOff, nil
}

// OtherDisks lists the disks that would have to become other ones under their names, sorted. own is
// the pool of the private disk.
func OtherDisks(have, want map[string]Disk, own string) (names []string) {
	pool := func(disk Disk) string {
		if disk.Pool == own {
			return ""
		}
		return disk.Pool
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		is, old := have[name]
		if to := want[name]; old && (pool(is) != pool(to) || is.Volume != to.Volume || is.Format != to.Format) {
			names = append(names, name)
		}
	}
	return names
}

// MountedDisks are the disks that a guest mounts.
func MountedDisks(disks map[string]Disk) (mounted []agentapi.MountedDisk) {
	for _, name := range slices.Sorted(maps.Keys(disks)) {
		if disk := disks[name]; disk.MountPoint != "" {
			mounted = append(mounted, agentapi.MountedDisk{
				Serial: disk.Serial, FileSystem: disk.FileSystem, MountPoint: disk.MountPoint, ReadOnly: disk.ReadOnly,
			})
		}
	}
	return mounted
}

// poolOf is the pool of a record for the store, whose own pool is "".
func (f *Fleet) poolOf(pool string) string {
	if pool == f.Pool {
		return ""
	}
	return pool
}

// recordOf is the record of a disk of the VM with a UUID.
func (f *Fleet) recordOf(vm, uuid, name string, disk Disk) (record hypervisor.DiskRecord, err error) {
	record = hypervisor.DiskRecord{
		DiskDevice: disk.DiskDevice, Pool: disk.Pool, Volume: disk.Volume, Given: disk.Volume != "", Size: disk.Size,
		Protected:  disk.Protected,
		FileSystem: disk.FileSystem, MountPoint: disk.MountPoint,
	}
	if disk.Pool == "" {
		record.Pool = f.Pool
	}
	if !record.Given {
		record.Volume, err = store.FurtherDiskName(vm, uuid, name)
	}
	return record, err
}

// disksOf are the further disks of a domain as its record says, with the devices as they are
// defined. A disk that is still being made is none yet.
func (f *Fleet) disksOf(domain hypervisor.Domain) map[string]Disk {
	if len(domain.Metadata.Disks) == 0 {
		return nil
	}
	disks := map[string]Disk{}
	for name, record := range domain.Metadata.Disks {
		if !record.Making {
			disks[name] = f.diskOfRecord(domain, name)
		}
	}
	return disks
}

// definedDisks are those of disksOf and the disks that a domain has although an apply was cut off
// while it made them: the guest may have written to them. They are not mounted as far as is known.
func (f *Fleet) definedDisks(domain hypervisor.Domain) map[string]Disk {
	disks := f.disksOf(domain)
	for name := range domain.Disks {
		if domain.Metadata.Disks[name].Making {
			disk := f.diskOfRecord(domain, name)
			disk.FileSystem, disk.MountPoint = "", ""
			disks[name] = disk
		}
	}
	return disks
}

// diskOfRecord is a further disk as its record says, with the device as it is defined.
func (f *Fleet) diskOfRecord(domain hypervisor.Domain, name string) Disk {
	record := domain.Metadata.Disks[name]
	disk := Disk{
		DiskDevice: record.DiskDevice, Pool: f.poolOf(record.Pool), Size: record.Size, Protected: record.Protected,
		FileSystem: record.FileSystem, MountPoint: record.MountPoint,
	}
	if record.Given {
		disk.Volume = record.Volume
	}
	if device, defined := domain.Disks[name]; defined {
		disk.DiskDevice = device.DiskDevice
	}
	return disk
}

// diskFaults compares the further disks of a definition with their record, with the pools, and with the running domain.
func (f *Fleet) diskFaults(ctx context.Context, domain hypervisor.Domain,
	state hypervisor.State) (faults []Fault, err error) {
	if len(domain.Metadata.Disks) == 0 {
		return nil, nil
	}
	var attached []string
	if state == hypervisor.Running {
		attached, err = f.Hypervisor.AttachedDisks(ctx, domain.Name)
		if errors.Is(err, hypervisor.ErrNotRunning) {
			state, err = hypervisor.Off, nil // it has ended meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("list its further disks: %w", err)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(domain.Metadata.Disks)) {
		record := domain.Metadata.Disks[name]
		object := "disk " + name
		_, defined := domain.Disks[name]
		if record.Making {
			if domain.Metadata.Creating == nil {
				faults = append(faults,
					Fault{object, "an apply was cut off while it made the disk; the next apply makes it, or removes what there is of it", true})
			}
			continue
		}
		switch _, _, err := f.Store.FindVolume(ctx, f.poolOf(record.Pool), record.Volume); {
		case errors.Is(err, store.ErrAbsentPool):
			faults = append(faults,
				Fault{object, fmt.Sprintf(
					"libvirt has no storage pool %q, in which its volume %s is; define and start the pool",
					record.Pool, record.Volume), false})
		case errors.Is(err, store.ErrUnreachable) && record.Pool != f.Pool: // such as one on a server that is down
			faults = append(faults,
				Fault{object, fmt.Sprintf("it is not known whether its volume %s is in storage pool %q: %v",
					record.Volume, record.Pool, err), false})
		case errors.Is(err, store.ErrNotFound):
			faults = append(faults, Fault{object, furtherGone(record).Error(), false})
		case err != nil:
			return nil, fmt.Errorf("look for disk %q: %w", name, err)
		}
		switch {
		case !defined:
			faults = append(faults,
				Fault{object, "the definition of the VM does not have it; the next apply defines it again", true})
		case state == hypervisor.Running && !slices.Contains(attached, name):
			faults = append(faults,
				Fault{object, "it is not attached to the running VM; the next apply attaches it again", true})
		}
	}
	return faults, nil
}

// furtherGone is the error for a further disk whose volume is missing.
func furtherGone(record hypervisor.DiskRecord) error {
	return fmt.Errorf(
		"%w: there is no volume %s in pool %q; put it back there, or remove the disk from the configuration and apply",
		ErrVolumeGone, record.Volume, record.Pool)
}

// makeDisk returns the path of a disk's volume. It makes the volume if the disk is new, and grows it if it is to
// have more bytes than had. Otherwise nothing depends on what is in the volume: a guest can write anything there.
func (f *Fleet) makeDisk(ctx context.Context, name, uuid string, record hypervisor.DiskRecord, had int64,
	inUse bool) (string, error) {
	pool, size := f.poolOf(record.Pool), record.Size
	if !record.Given && !store.FurtherDiskIsOf(record.Volume, uuid) {
		return "", fmt.Errorf("disk %q: its record names volume %q: %w, whose UUID is %s", name,
			record.Volume, ErrNotOurs, uuid)
	}
	if record.Given || !record.Making {
		found, err := f.findDisk(ctx, name, record)
		switch {
		case err != nil:
			return "", err
		case record.Given, size <= had:
			return found.Path, nil
		}
		size = max(size, found.Capacity) // what an earlier growth made of it, or the pool by rounding
	}
	path, err := f.Store.CreateDisk(ctx, pool, record.Volume, size, record.Format, inUse)
	if err != nil {
		return "", fmt.Errorf("disk %q: %w", name, err)
	}
	return path, nil
}

// findDisk finds the volume of a disk that must have one.
func (f *Fleet) findDisk(ctx context.Context, name string, record hypervisor.DiskRecord) (store.Volume, error) {
	found, format, err := f.Store.FindVolume(ctx, f.poolOf(record.Pool), record.Volume)
	switch {
	case errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNoPool):
		err = furtherGone(record)
	case err == nil && record.Given && record.Making && format != record.Format:
		err = fmt.Errorf("%w: volume %s in pool %q has format %s, and the disk has format %s", store.ErrFormat,
			record.Volume, record.Pool, format, record.Format)
	}
	if err != nil {
		return found, fmt.Errorf("disk %q: %w", name, err)
	}
	return found, nil
}

// checkDisks returns why a VM cannot be defined with the further disks of spec, as far as that is
// known before it is powered off.
func (f *Fleet) checkDisks(ctx context.Context, known hypervisor.Domain, spec Spec) error {
	if err := f.refuseDisks(known, spec); err != nil {
		return err
	}
	records, _, err := f.withNewDisks(known, spec)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Disks)) {
		record := records[name]
		if _, err := f.findDisk(ctx, name, record); err != nil &&
			(record.Given || !record.Making || errors.Is(err, store.ErrAbsentPool)) {
			return err
		}
	}
	return nil
}

// refuseDisks refuses further disks that would become other ones, or that are protected and have to go.
func (f *Fleet) refuseDisks(known hypervisor.Domain, spec Spec) error {
	if names := OtherDisks(f.definedDisks(known), spec.Disks, f.Pool); len(names) > 0 {
		return fmt.Errorf("disk %q: %w; give it another name", names[0], ErrOtherDisk)
	}
	for _, name := range unwanted(known, spec) {
		if known.Metadata.Disks[name].Protected {
			return protectedDisk(name)
		}
	}
	return nil
}

// recordDisks adds the disks of spec that a domain does not have yet to its record. It does so before their
// volumes are made, so that the domain names them even if that is interrupted. It returns the changed domain.
func (f *Fleet) recordDisks(ctx context.Context, domain hypervisor.Domain, spec Spec) (hypervisor.Domain, error) {
	records, changed, err := f.withNewDisks(domain, spec)
	if err != nil || !changed {
		return domain, err
	}
	domain.Metadata.Disks = records
	if err := f.setMetadata(ctx, domain.Name, func(m *hypervisor.Metadata) { m.Disks = records }); err != nil {
		return domain, fmt.Errorf("record its disks: %w", err)
	}
	return domain, nil
}

// withNewDisks returns the record of the disks of a domain with those of spec that it does not have yet.
func (f *Fleet) withNewDisks(domain hypervisor.Domain,
	spec Spec) (records map[string]hypervisor.DiskRecord, changed bool, err error) {
	records = maps.Clone(domain.Metadata.Disks)
	if records == nil {
		records = map[string]hypervisor.DiskRecord{}
	}
	for name, disk := range spec.Disks {
		old, has := records[name]
		if _, defined := domain.Disks[name]; has && (!old.Making || defined) {
			continue
		}
		record, err := f.recordOf(spec.Name, spec.UUID, name, disk)
		if err != nil {
			return nil, false, fmt.Errorf("disk %q: %w", name, err)
		}
		record.Making = true
		changed = changed || records[name] != record
		records[name] = record
	}
	return records, changed, nil
}

// defineDisks makes the volumes of the further disks of spec, and puts the disks into the
// definition domain. known is what there is before; its record has the disks (recordDisks). A disk
// that is not wanted any more stays in the record until dropDisks has deleted it.
func (f *Fleet) defineDisks(ctx context.Context, domain *hypervisor.Domain, known hypervisor.Domain, spec Spec,
	running bool, progress Progress) error {
	if len(spec.Disks) == 0 && len(known.Metadata.Disks) == 0 {
		return nil
	}
	domain.Disks, domain.Metadata.Disks = map[string]hypervisor.Disk{}, map[string]hypervisor.DiskRecord{}
	if err := f.refuseDisks(known, spec); err != nil {
		return err
	}
	for name, record := range known.Metadata.Disks {
		if _, wanted := spec.Disks[name]; wanted {
			continue
		}
		domain.Metadata.Disks[name] = record
		if device, defined := known.Disks[name]; defined && spec.leaveDisks {
			domain.Disks[name] = device
		}
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Disks)) {
		record, err := f.recordOf(spec.Name, spec.UUID, name, spec.Disks[name])
		if err != nil {
			return fmt.Errorf("disk %q: %w", name, err)
		}
		old, has := known.Metadata.Disks[name]
		if has {
			record.Volume = old.Volume
		}
		making := record
		if making.Making = !has || old.Making; making.Making {
			progress("making disk " + name)
		}
		path, err := f.makeDisk(ctx, name, spec.UUID, making, old.Size, running)
		if err != nil {
			return err
		}
		domain.Disks[name], domain.Metadata.Disks[name] = hypervisor.Disk{Path: path, DiskDevice: record.DiskDevice},
			record
	}
	return nil
}

// protectedDisk is the error that a disk is protected.
func protectedDisk(name string) error {
	return fmt.Errorf("disk %q: %w: set its deletion_protection to false, apply, and remove it then", name,
		ErrProtected)
}

// dropDisks deletes the volumes of further disks that no running domain has attached, and then their records.
func (f *Fleet) dropDisks(ctx context.Context, uuid string, names []string, progress Progress) error {
	if len(names) == 0 {
		return nil
	}
	domain, state, err := f.Hypervisor.LookupUUID(ctx, uuid)
	if err != nil {
		return err
	}
	var attached []string
	if state == hypervisor.Running || state == hypervisor.Paused {
		if attached, err = f.Hypervisor.AttachedDisks(ctx, domain.Name); err != nil {
			return err
		}
	}
	records := maps.Clone(domain.Metadata.Disks)
	for _, name := range names {
		record, has := records[name]
		switch {
		case !has:
			continue
		case record.Protected:
			return protectedDisk(name)
		case slices.Contains(attached, name):
			return fmt.Errorf("delete disk %q: %w", name, ErrDiskInUse)
		}
		if err := f.deleteDisk(ctx, domain.UUID, name, record, progress); err != nil {
			return err
		}
		delete(records, name)
	}
	return f.setMetadata(ctx, domain.Name, func(m *hypervisor.Metadata) { m.Disks = records })
}

// unwanted lists the disks in the record of a domain that spec does not have, sorted.
func unwanted(domain hypervisor.Domain, spec Spec) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(domain.Metadata.Disks)) {
		if _, stays := spec.Disks[name]; !stays && !spec.leaveDisks {
			names = append(names, name)
		}
	}
	return names
}

// deleteDisk deletes the volume of a further disk, unless it was given.
func (f *Fleet) deleteDisk(ctx context.Context, uuid, name string, record hypervisor.DiskRecord,
	progress Progress) error {
	switch {
	case record.Given:
		return nil
	case !store.FurtherDiskIsOf(record.Volume, uuid):
		return fmt.Errorf("delete disk %q: its record names volume %q: %w, whose UUID is %s", name,
			record.Volume, ErrNotOurs, uuid)
	}
	progress("deleting disk " + name)
	if err := f.Store.DeleteDisk(ctx, f.poolOf(record.Pool), record.Volume); err != nil &&
		!errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete disk %q: %w", name, err)
	}
	return nil
}

// protectedDisks lists the further disks of a domain that must not be deleted, sorted.
func protectedDisks(domain hypervisor.Domain) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(domain.Metadata.Disks)) {
		if domain.Metadata.Disks[name].Protected {
			names = append(names, name)
		}
	}
	return names
}

// unprotected are disks without their protection.
func unprotected(disks map[string]Disk) map[string]Disk {
	disks = maps.Clone(disks)
	for name, disk := range disks {
		disk.Protected = false
		disks[name] = disk
	}
	return disks
}

// protectDisks records which disks are protected. It returns the changed domain.
func (f *Fleet) protectDisks(ctx context.Context, domain hypervisor.Domain, spec Spec) (hypervisor.Domain, error) {
	records := maps.Clone(domain.Metadata.Disks)
	changed := false
	for name, disk := range spec.Disks {
		if record, has := records[name]; has && record.Protected != disk.Protected {
			record.Protected = disk.Protected
			records[name], changed = record, true
		}
	}
	if !changed {
		return domain, nil
	}
	domain.Metadata.Disks = records
	if err := f.setMetadata(ctx, domain.Name, func(m *hypervisor.Metadata) { m.Disks = records }); err != nil {
		return domain, fmt.Errorf("record which disks are protected: %w", err)
	}
	return domain, nil
}

// changeDisks attaches, grows and detaches the further disks of a running VM, and has its guest
// mount and unmount them. The definition is written after that, with the record of what was done.
// If an update is interrupted in between, the next one does it again.
func (f *Fleet) changeDisks(ctx context.Context, domain hypervisor.Domain, spec Spec, moves DiskMoves,
	progress Progress) (err error) {
	if len(spec.Disks) == 0 && len(domain.Metadata.Disks) == 0 {
		return nil
	}
	attached, err := f.Hypervisor.AttachedDisks(ctx, domain.Name)
	if err != nil {
		return err
	}
	gone := unwanted(domain, spec)
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(spec.Disks)) {
		if !slices.Contains(attached, name) || domain.Disks[name].Path == "" {
			missing = append(missing, name)
		}
	}
	if len(gone)+len(missing) == 0 && !moves.Any() {
		return nil
	}
	if err := f.refuseDisks(domain, spec); err != nil {
		return err
	}
	if err := f.detachDisks(ctx, domain, gone, attached, progress); err != nil {
		return err
	}
	if domain, err = f.recordDisks(ctx, domain, spec); err != nil {
		return err
	}
	mount := moves.Mount
	for _, name := range slices.Sorted(maps.Keys(spec.Disks)) {
		mount = mount || spec.Disks[name].MountPoint != "" &&
			(slices.Contains(missing, name) || slices.Contains(moves.Grow, name))
		if err := f.bringDisk(ctx, domain, spec, name, slices.Contains(missing, name),
			slices.Contains(moves.Grow, name), progress); err != nil {
			return err
		}
	}
	if mount {
		progress("mounting disks in the guest")
		return f.setDisks(ctx, domain.UUID, spec.Disks, nil)
	}
	return nil
}

// detachDisks has the guest release disks, detaches them and deletes what is the VM's own.
func (f *Fleet) detachDisks(ctx context.Context, domain hypervisor.Domain, gone, attached []string,
	progress Progress) error {
	if len(gone) == 0 {
		return nil
	}
	stay := maps.Clone(f.disksOf(domain))
	var release []string
	for _, name := range gone {
		record := domain.Metadata.Disks[name]
		if record.Protected {
			return protectedDisk(name)
		}
		delete(stay, name)
		if slices.Contains(attached, name) {
			release = append(release, record.Serial)
		}
	}
	if len(release) > 0 {
		progress("unmounting and releasing disks in the guest: " + strings.Join(gone, ", "))
		if err := f.setDisks(ctx, domain.UUID, stay, release); err != nil {
			return err
		}
	}
	for _, name := range gone {
		progress("detaching disk " + name)
		if err := f.Hypervisor.DetachDisk(ctx, domain.Name, name); err != nil {
			return fmt.Errorf("detach disk %q: %w", name, err)
		}
	}
	return f.dropDisks(ctx, domain.UUID, gone, progress)
}

// bringDisk attaches a disk that is missing, and grows one.
func (f *Fleet) bringDisk(ctx context.Context, domain hypervisor.Domain, spec Spec, name string, attach, grow bool,
	progress Progress) error {
	if !attach && !grow {
		return nil
	}
	wanted, err := f.recordOf(spec.Name, spec.UUID, name, spec.Disks[name])
	if err != nil {
		return fmt.Errorf("disk %q: %w", name, err)
	}
	has := domain.Metadata.Disks[name]
	wanted.Volume, wanted.Making = has.Volume, has.Making
	path, err := f.makeDisk(ctx, name, spec.UUID, wanted, has.Size, !attach)
	if err != nil {
		return err
	}
	if attach {
		progress("attaching disk " + name)
		if err := f.Hypervisor.AttachDisk(ctx, spec.Name, name,
			hypervisor.Disk{Path: path, DiskDevice: wanted.DiskDevice}); err != nil {
			return fmt.Errorf("attach disk %q: %w", name, err)
		}
	}
	if grow {
		progress("growing disk " + name)
		if err := f.Hypervisor.ResizeDisk(ctx, spec.Name, name, wanted.Size); err != nil {
			return fmt.Errorf("grow disk %q: %w", name, err)
		}
	}
	return nil
}

// setDisks has a running guest mount disks, and release those with some serials. ErrDiskInUse if
// one that has to go is in use.
func (f *Fleet) setDisks(ctx context.Context, uuid string, disks map[string]Disk, release []string) error {
	const do, atStart = "change the disks in the running guest",
		"to have them changed at its next start instead, apply with " +
			"running = false first, and with running = true then"
	// The agent's key may have been pinned in the definition since this update began.
	domain, _, err := f.Hypervisor.LookupUUID(ctx, uuid)
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return fmt.Errorf("%s: %w; %s", do, err, atStart)
	}
	defer func() { _ = agent.Close() }() // its answer is read by then
	request := &agentapi.SetDisksRequest{Release: release}
	names := map[string]string{}
	for name, disk := range disks {
		names[disk.Serial] = name
	}
	for _, disk := range MountedDisks(disks) {
		request.Disks = append(request.Disks, &agentapi.Disk{
			Serial: disk.Serial, FileSystem: disk.FileSystem, MountPoint: disk.MountPoint, ReadOnly: disk.ReadOnly,
			Size: disks[names[disk.Serial]].Size,
		})
	}
	ctx, cancel := context.WithTimeout(ctx, disksLimit)
	defer cancel()
	answer, err := agent.SetDisks(ctx, request)
	switch {
	case status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("%s: %w; %s", do, ErrOldAgent, atStart)
	case err != nil:
		return fmt.Errorf("%s: %w", do, err)
	case len(answer.GetHeld()) > 0:
		var held []string
		for _, one := range answer.GetHeld()[:min(len(answer.GetHeld()), hypervisor.MaxDisks)] {
			held = append(held, one.GetSerial()+" by "+
				strings.Join(one.GetBy()[:min(len(one.GetBy()), maxUsers)], ", "))
		}
		return fmt.Errorf("%s: %w:%s\nEnd what uses it, and apply again", do, ErrDiskInUse, plain.Guest(held...))
	}
	return nil
}

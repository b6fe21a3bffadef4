package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// disks checks the further disks: their pools, the volumes that are given, what must not go, and
// the room in the running domain.
func (p *preflight) disks(ctx context.Context) error {
	if p.Want.Disks == nil {
		return nil
	}
	var have map[string]Disk
	if p.Have != nil {
		have = p.Have.Disks
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, stays := p.Want.Disks[name]; !stays && have[name].Protected {
			p.refuse("To delete it, first set its deletion_protection to false and apply.",
				fmt.Errorf("disk %q is protected from being deleted: its deletion_protection is true in state", name),
				"disks")
		}
	}
	for _, name := range OtherDisks(have, p.Want.Disks, p.fleet.Pool) {
		p.refuse(
			"Give the disk another name: then it is made anew, and the one of this name is deleted, unless it has a volume.",
			fmt.Errorf("disk %q would get another pool, volume or format: %w", name, ErrOtherDisk), "disks", name)
	}
	grows := map[string]int64{} // by pool
	for _, name := range slices.Sorted(maps.Keys(p.Want.Disks)) {
		disk, had := p.Want.Disks[name], Disk{}
		is, old := have[name]
		if old {
			had = is
		}
		if disk.Volume == "" {
			grows[disk.Pool] += max(0, disk.Size-had.Size)
		} else if !old || p.starts() {
			if err := p.volume(ctx, name, disk); err != nil {
				return err
			}
		}
		if err := p.format(ctx, name, disk, old); err != nil {
			return err
		}
	}
	for _, pool := range slices.Sorted(maps.Keys(grows)) {
		if err := p.room(ctx, pool, grows[pool]); err != nil {
			return err
		}
	}
	return nil
}

// poolName is the name of a pool for people.
func (p *preflight) poolName(pool string) string {
	if pool == "" {
		return p.fleet.Pool
	}
	return pool
}

// room checks that a pool can hold what its disks grow by. The private disk is checked alone.
func (p *preflight) room(ctx context.Context, pool string, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	room, err := p.fleet.Store.RoomIn(ctx, p.fleet.poolOf(pool))
	switch {
	case errors.Is(err, store.ErrAbsentPool):
		p.refuse("Define and start it, or choose one of: virsh pool-list --all",
			fmt.Errorf("libvirt has no storage pool %q", p.poolName(pool)), "disks")
		return nil
	case errors.Is(err, store.ErrNotFound):
		return nil // the pool is created with the first base
	case err != nil:
		return err
	}
	limit, what := room.Available, "is free"
	if room.Thin {
		limit, what = room.Capacity, "is the size of all of it"
	}
	if bytes > limit {
		p.refuse("Set smaller sizes, or use another pool.",
			fmt.Errorf("its disks in storage pool %q are to take %d MiB more, and %d MiB %s", p.poolName(pool),
				bytes>>20, limit>>20, what), "disks")
	}
	return nil
}

// volume checks a volume that is given.
func (p *preflight) volume(ctx context.Context, name string, disk Disk) error {
	if _, ours := store.ParseVolumeName(disk.Volume); ours {
		p.refuse("Choose a volume that was not made by this provider.",
			fmt.Errorf("disk %q: volume %s has the name of a layer or of a VM's disk", name, disk.Volume), "disks",
			name, "volume")
		return nil
	}
	_, format, err := p.fleet.Store.FindVolume(ctx, p.fleet.poolOf(disk.Pool), disk.Volume)
	switch {
	case errors.Is(err, store.ErrAbsentPool):
		p.refuse("Define and start it, or choose one of: virsh pool-list --all",
			fmt.Errorf("libvirt has no storage pool %q", p.poolName(disk.Pool)), "disks", name, "pool")
		return nil
	case errors.Is(err, store.ErrNotFound):
		p.found = append(p.found, Problem{Attribute: []string{"disks", name, "volume"}, Possible: true,
			Err:  fmt.Errorf("disk %q: storage pool %q has no volume %q yet", name, p.poolName(disk.Pool), disk.Volume),
			Next: "The apply fails unless something else makes it before the VM."})
		return nil
	case err == nil && format != disk.Format:
		p.refuse(
			fmt.Sprintf(
				"Set its format to %q if the volume can be trusted: a guest that had it as a raw disk can have written the header of another format.", format),
			fmt.Errorf("disk %q has format %q, and volume %q has format %q", name, disk.Format, disk.Volume, format),
			"disks", name, "format")
	}
	return err
}

// format checks that a pool can hold a disk that is to be made with a format.
func (p *preflight) format(ctx context.Context, name string, disk Disk, old bool) error {
	if old || disk.Volume != "" || disk.Format == hypervisor.FormatRaw {
		return nil
	}
	room, err := p.fleet.Store.RoomIn(ctx, p.fleet.poolOf(disk.Pool))
	if errors.Is(err, store.ErrAbsentPool) || errors.Is(err, store.ErrNotFound) {
		return nil // see room
	}
	if err == nil && room.Directory == "" {
		p.refuse("Use the format raw, or a pool of type dir, fs or netfs.",
			fmt.Errorf("disk %q has format %q, and the volumes of storage pool %q are block devices", name, disk.Format,
				p.poolName(disk.Pool)), "disks", name, "format")
	}
	return err
}

package hypervisortest

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// free is how many ports of a running domain are free.
func (d *domain) free() int { return d.room - len(d.attached) - len(d.disks) - len(d.cards) }

// AttachDisk implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachDisk(ctx context.Context, name, disk string, device hypervisor.Disk) error {
	return h.on(ctx, "AttachDisk", name, true, func(d *domain) error {
		fail := func(err error) error { return fmt.Errorf("attach disk %q to domain %q: %w", disk, name, err) }
		changed := clone(d.Domain)
		if _, has := d.Disks[disk]; !has {
			if changed.Disks == nil {
				changed.Disks = map[string]hypervisor.Disk{}
			}
			changed.Disks[disk] = device
		}
		if err := changed.Check(); err != nil {
			return fail(err)
		}
		if d.state == hypervisor.Running && !slices.Contains(d.disks, disk) {
			if d.free() <= hypervisor.LayerPorts {
				return fail(hypervisor.ErrNoPort)
			}
			if _, err := os.Stat(device.Path); err != nil && !h.NoFiles {
				return fail(err)
			}
			d.disks = append(d.disks, disk)
		}
		d.Domain = changed
		return nil
	})
}

// DetachDisk implements hypervisor.Hypervisor.
func (h *Hypervisor) DetachDisk(ctx context.Context, name, disk string) error {
	return h.on(ctx, "DetachDisk", name, true, func(d *domain) error {
		if d.state == hypervisor.Running && slices.Contains(d.disks, disk) {
			if h.Deaf {
				h.mu.Unlock()
				<-ctx.Done()
				h.mu.Lock()
				return fmt.Errorf("detach disk %q from domain %q: the guest has not released it: %w", disk, name,
					ctx.Err())
			}
			d.unplug(disk)
		}
		d.Disks = maps.Clone(d.Disks)
		delete(d.Disks, disk)
		return nil
	})
}

// unplug takes a further disk from a running domain.
func (d *domain) unplug(disk string) {
	d.disks = slices.DeleteFunc(slices.Clone(d.disks), func(one string) bool { return one == disk })
}

// AttachedDisks implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachedDisks(ctx context.Context, name string) ([]string, error) {
	if err := h.enter(ctx, "AttachedDisks", name, false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.running("list the disks of", name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(slices.Values(d.disks)), nil
}

// RoomForDisks implements hypervisor.Hypervisor.
func (h *Hypervisor) RoomForDisks(ctx context.Context, name string) (int, error) {
	if err := h.enter(ctx, "RoomForDisks", name, false); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.running("ask for the free ports of", name)
	if err != nil {
		return 0, err
	}
	return max(0, d.free()-hypervisor.LayerPorts), nil
}

// running finds a domain that runs. It must be called with h.mu held.
func (h *Hypervisor) running(do, name string) (*domain, error) {
	d, err := h.find(name)
	if err == nil && d.state != hypervisor.Running {
		err = fmt.Errorf("%s domain %q: %w", do, name, hypervisor.ErrNotRunning)
	}
	return d, err
}

// resize grows the volume of a disk of a running domain. It must be called with h.mu held.
func (h *Hypervisor) resize(d *domain, what, disk string, size int64) error {
	path := d.PrivateDisk
	if disk != "" {
		if !slices.Contains(d.disks, disk) {
			return fmt.Errorf("%s: %w", what, hypervisor.ErrNoDisk)
		}
		path = d.Disks[disk].Path
	}
	info, err := os.Stat(path)
	switch {
	case h.NoFiles:
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", what, err)
	case info.Size() >= size:
		return nil
	}
	return os.Truncate(path, size)
}

// ResizeDisk implements hypervisor.Hypervisor.
func (h *Hypervisor) ResizeDisk(ctx context.Context, name, disk string, size int64) error {
	if err := h.enter(ctx, "ResizeDisk", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	what := fmt.Sprintf("resize disk %q of domain %q", disk, name)
	if size <= 0 {
		return fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	d, err := h.running("resize a disk of", name)
	if err != nil {
		return err
	}
	if h.OnResize != nil {
		h.OnResize(name, disk, size)
	}
	return h.resize(d, what, disk, size)
}

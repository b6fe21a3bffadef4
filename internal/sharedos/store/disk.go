package store

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"
)

// rounding is how much larger than asked for a pool may make a volume: pools of block devices deal in extents.
const rounding = 32 << 20

// CreatePrivateDisk implements Store.
func (s *Libvirt) CreatePrivateDisk(ctx context.Context, vm string, size int64) (string, string, error) {
	name, err := DiskName(vm)
	if err != nil {
		return "", "", err
	}
	what := fmt.Sprintf("create the private disk of VM %q", vm)
	if size <= 0 {
		return "", "", fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	disk, err := s.create(ctx, what, name, size, 0)
	if err != nil {
		return "", "", err
	}
	if disk.capacity > size && disk.capacity-size >= rounding {
		return "", "", fmt.Errorf("%s: %w from %d to %d bytes; keep the size, or delete the VM", what, ErrShrink, disk.capacity, size)
	}
	if disk.capacity >= size {
		return name, disk.path, nil
	}
	err = s.call(ctx, what, true, func(l *libvirt.Libvirt, _ libvirt.StoragePool) error {
		if err := l.StorageVolResize(disk.StorageVol, uint64(size), 0); err != nil {
			return fmt.Errorf("grow volume %s from %d to %d bytes: %w", disk.path, disk.capacity, size, err)
		}
		return nil
	})
	if err != nil {
		return "", "", err
	}
	return name, disk.path, nil
}

// DeletePrivateDisk implements Store.
func (s *Libvirt) DeletePrivateDisk(ctx context.Context, vm string) error {
	name, err := DiskName(vm)
	if err != nil {
		return err
	}
	return s.delete(ctx, fmt.Sprintf("delete the private disk of VM %q", vm), name)
}

// PrivateDisk implements Store.
func (s *Libvirt) PrivateDisk(ctx context.Context, vm string) (Volume, error) {
	name, err := DiskName(vm)
	if err != nil {
		return Volume{}, err
	}
	disk, err := s.volume(ctx, fmt.Sprintf("look at the private disk of VM %q", vm), name, false)
	return disk.public(), err
}

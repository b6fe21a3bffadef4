package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
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
	if disk.made && disk.device {
		if err := s.blank(ctx, what, disk); err != nil {
			return "", "", errors.Join(err, s.delete(context.WithoutCancel(ctx), what, name))
		}
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

// blankSize is how much of a private disk decides what it is, in bytes: a guest formats only one that is blank there.
const blankSize = 1 << 20

// blank clears the start of a disk that was made just now. What is made of a device's blocks holds what was there before, such
// as the disk of another VM; LVM clears 4 KiB.
func (s *Libvirt) blank(ctx context.Context, what string, disk held) error {
	length := min(disk.capacity, blankSize)
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		return t.Upload(disk.StorageVol, 0, length, bytes.NewReader(make([]byte, length)), nil)
	})
	if err != nil {
		return fmt.Errorf("%s: clear volume %s: %w", what, disk.path, err)
	}
	return nil
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

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// rounding bounds by how many bytes a volume may be larger than it should be: pools of block
// devices allocate whole extents.
const rounding = 32 << 20

// CreatePrivateDisk implements Disks.
func (s *Libvirt) CreatePrivateDisk(ctx context.Context, name string, size int64) (string, error) {
	if err := checkDisk(name); err != nil {
		return "", err
	}
	what := "create private disk " + name
	if size <= 0 {
		return "", fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	disk, err := s.ensure(ctx, what, name, size, 0, rawFormat)
	if err != nil {
		return "", err
	}
	if disk.created && disk.device {
		if err := s.clear(ctx, what, disk); err != nil {
			return "", errors.Join(err, s.delete(context.WithoutCancel(ctx), what, name))
		}
	}
	if disk.capacity-size >= rounding {
		return "", fmt.Errorf("%s: %w from %d to %d bytes; keep the size, or delete the VM", what,
			ErrShrink, disk.capacity, size)
	}
	if disk.capacity < size {
		err = s.call(ctx, what, storing, func(l *libvirt.Libvirt, _ libvirt.StoragePool) error {
			if err := l.StorageVolResize(disk.StorageVol, uint64(size), 0); err != nil {
				return fmt.Errorf("grow volume %s from %d to %d bytes: %w", disk.path, disk.capacity, size, err)
			}
			return nil
		})
	}
	if err != nil {
		return "", err
	}
	return disk.path, nil
}

// clearedSize is how many bytes at the start of a private disk are zero when it is created. A guest
// formats a disk only if this part of it is zero.
const clearedSize = 1 << 20

// clear writes zeros to the start of a new disk. A volume on a block device holds what was on its
// blocks before, such as the disk of another VM. LVM clears only 4 KiB.
func (s *Libvirt) clear(ctx context.Context, what string, disk volume) error {
	length := min(disk.capacity, clearedSize)
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		return t.Upload(disk.StorageVol, 0, length, bytes.NewReader(make([]byte, length)), nil)
	})
	if err != nil {
		return fmt.Errorf("%s: clear volume %s: %w", what, disk.path, err)
	}
	return nil
}

// DeletePrivateDisk implements Disks.
func (s *Libvirt) DeletePrivateDisk(ctx context.Context, name string) error {
	if err := checkDisk(name); err != nil {
		return err
	}
	return s.delete(ctx, "delete private disk "+name, name)
}

// PrivateDisk implements Disks.
func (s *Libvirt) PrivateDisk(ctx context.Context, name string) (Volume, error) {
	if err := checkDisk(name); err != nil {
		return Volume{}, err
	}
	disk, err := s.find(ctx, "look up private disk "+name, name, reading)
	return disk.public(), err
}

// ListDisks implements Disks.
func (s *Libvirt) ListDisks(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list private disks", DiskVolume)
}

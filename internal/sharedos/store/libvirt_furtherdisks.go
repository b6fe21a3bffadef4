package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// rawFormat is libvirt's name of the format that has no header.
const rawFormat = "raw"

// in is the store in another pool, which has to exist; "" is the store's own pool.
func (s *Libvirt) in(pool string) (*Libvirt, error) {
	if pool == "" || pool == s.config.Pool {
		return s, nil
	}
	return New(s.client, Config{Pool: pool})
}

// CreateDisk implements Disks.
func (s *Libvirt) CreateDisk(ctx context.Context, pool, name string, size int64, format string,
	inUse bool) (string, error) {
	if err := checkFurtherDisk(name); err != nil {
		return "", err
	}
	what := "create disk " + name
	if size <= 0 {
		return "", fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	in, err := s.in(pool)
	if err != nil {
		return "", err
	}
	disk, err := in.ensure(ctx, what, name, size, 0, format)
	if err != nil {
		return "", err
	}
	if disk.created && disk.device {
		if err := in.clearEnds(ctx, what, disk); err != nil {
			return "", errors.Join(err, in.delete(context.WithoutCancel(ctx), what, name))
		}
	}
	if inUse && !disk.device { // QEMU alone may change an image that it has opened
		return disk.path, nil
	}
	has, err := in.formatOf(ctx, what, name)
	switch {
	case err != nil:
		return "", err
	case has != format:
		return "", fmt.Errorf(
			"%s: %w: the storage pool says that volume %s has format %s, and it was made with format %s; if the "+
				"guest has written a header of the other format to the disk, delete that in the VM", what,
			ErrFormat, disk.path, has, format)
	case disk.capacity-size >= rounding:
		return "", fmt.Errorf("%s: %w from %d to %d bytes; keep the size, or use a disk of another name", what,
			ErrShrink, disk.capacity, size)
	case disk.capacity >= size:
		return disk.path, nil
	}
	err = in.call(ctx, what, storing, func(l *libvirt.Libvirt, _ libvirt.StoragePool) error {
		if err := l.StorageVolResize(disk.StorageVol, uint64(size), 0); err != nil {
			return fmt.Errorf("grow volume %s from %d to %d bytes: %w", disk.path, disk.capacity, size, err)
		}
		return nil
	})
	return disk.path, err
}

// clearEnds writes zeros to both ends of a new disk. A guest makes a file system only on a disk
// that has no signature at either.
func (s *Libvirt) clearEnds(ctx context.Context, what string, disk volume) error {
	if err := s.clear(ctx, what, disk); err != nil || disk.capacity <= clearedSize {
		return err
	}
	length := min(disk.capacity-clearedSize, clearedSize)
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		return t.Upload(disk.StorageVol, disk.capacity-length, length, bytes.NewReader(make([]byte, length)), nil)
	})
	if err != nil {
		return fmt.Errorf("%s: clear volume %s: %w", what, disk.path, err)
	}
	return nil
}

// formatOf returns the format of a volume as libvirt finds it. A block device is raw.
func (s *Libvirt) formatOf(ctx context.Context, what, name string) (format string, err error) {
	err = s.call(ctx, what, reading, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		handle, err := s.lookup(l, pool, name)
		if err != nil {
			return err
		}
		text, err := l.StorageVolGetXMLDesc(handle, 0)
		if err != nil {
			return absent(name, err)
		}
		var definition libvirtxml.StorageVolume
		if err := definition.Unmarshal(text); err != nil {
			return fmt.Errorf("read the description of volume %s: %w", name, err)
		}
		format = rawFormat
		if definition.Type != "block" && definition.Target != nil && definition.Target.Format != nil {
			format = definition.Target.Format.Type
		}
		return nil
	})
	return format, err
}

// DeleteDisk implements Disks.
func (s *Libvirt) DeleteDisk(ctx context.Context, pool, name string) error {
	if err := checkFurtherDisk(name); err != nil {
		return err
	}
	in, err := s.in(pool)
	if err != nil {
		return err
	}
	return in.delete(ctx, "delete disk "+name, name)
}

// FindVolume implements Disks.
func (s *Libvirt) FindVolume(ctx context.Context, pool, name string) (Volume, string, error) {
	in, err := s.in(pool)
	if err != nil {
		return Volume{}, "", err
	}
	what := "look up volume " + name
	found, err := in.find(ctx, what, name, reading)
	if err != nil {
		return Volume{}, "", err
	}
	format, err := in.formatOf(ctx, what, name)
	return found.public(), format, err
}

// RoomIn implements Disks.
func (s *Libvirt) RoomIn(ctx context.Context, pool string) (Room, error) {
	in, err := s.in(pool)
	if err != nil {
		return Room{}, err
	}
	return in.Room(ctx)
}

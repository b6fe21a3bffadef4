package store

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// volume is a volume as libvirt describes it.
type volume struct {
	libvirt.StorageVol
	path                 string
	capacity, allocation int64
	// device is true for a block device. A new one may hold what was on its blocks before.
	device bool
	// created is true if this call created it.
	created bool
}

func (v volume) public() Volume {
	return Volume{Name: v.Name, Path: v.path, Capacity: v.capacity, Allocation: v.allocation}
}

func describe(l *libvirt.Libvirt, handle libvirt.StorageVol) (volume, error) {
	path, err := l.StorageVolGetPath(handle)
	if err != nil {
		return volume{}, err
	}
	kind, capacity, allocation, err := l.StorageVolGetInfo(handle)
	if err != nil {
		return volume{}, err
	}
	return volume{
		StorageVol: handle, path: path, capacity: int64(capacity), allocation: int64(allocation),
		device: libvirt.StorageVolType(kind) == libvirt.StorageVolBlock,
	}, nil
}

// lookup returns the handle of a volume; ErrNotFound if there is none. It refreshes the pool before
// it says so, because another host may have created the volume.
func (s *Libvirt) lookup(l *libvirt.Libvirt, pool libvirt.StoragePool, name string) (libvirt.StorageVol, error) {
	handle, err := l.StorageVolLookupByName(pool, name)
	if !libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
		return handle, err
	}
	if err := s.refresh(l, pool); err != nil {
		return handle, err
	}
	handle, err = l.StorageVolLookupByName(pool, name)
	if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
		return handle, fmt.Errorf("volume %s in storage pool %q: %w", name, s.config.Pool, ErrNotFound)
	}
	return handle, err
}

// find returns a volume, complete or torn; ErrNotFound if there is none.
func (s *Libvirt) find(ctx context.Context, what, name string, access access) (volume, error) {
	var found volume
	err := s.call(ctx, what, access, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		handle, err := s.lookup(l, pool, name)
		if err != nil {
			return err
		}
		found, err = describe(l, handle)
		return absent(name, err)
	})
	return found, err
}

// absent makes libvirt's answer that a volume does not exist match ErrNotFound.
func absent(name string, err error) error {
	if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
		return fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	return err
}

// list returns the volumes of some kinds. A pool that does not exist has none.
func (s *Libvirt) list(ctx context.Context, what string, kinds ...VolumeKind) ([]Volume, error) {
	var volumes []Volume
	err := s.call(ctx, what, reading, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		volumes = nil
		handles, err := s.handles(l, pool, kinds...)
		if err != nil {
			return err
		}
		for _, handle := range handles {
			found, err := describe(l, handle)
			if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
				continue
			}
			if err != nil {
				return fmt.Errorf("volume %s: %w", handle.Name, err)
			}
			volumes = append(volumes, found.public())
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return volumes, err
}

// handles returns the handles of all volumes of some kinds, those that other hosts created included.
func (s *Libvirt) handles(l *libvirt.Libvirt, pool libvirt.StoragePool,
	kinds ...VolumeKind) ([]libvirt.StorageVol, error) {
	if err := s.refresh(l, pool); err != nil {
		return nil, err
	}
	all, _, err := l.StoragePoolListAllVolumes(pool, 1, 0)
	return slices.DeleteFunc(all, func(handle libvirt.StorageVol) bool {
		name, ours := ParseVolumeName(handle.Name)
		return !ours || !slices.Contains(kinds, name.Kind)
	}), err
}

// Volumes implements Store.
func (s *Libvirt) Volumes(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list volumes", LayerVolume, BlobVolume, ReleaseVolume, HeadVolume, DiskVolume)
}

// ensure returns the volume of a name as it is. If there is none, it creates one of size bytes, of
// which the pool reserves some at once.
func (s *Libvirt) ensure(ctx context.Context, what, name string, size, reserve int64, format string) (volume, error) {
	var found volume
	err := s.call(ctx, what, storing, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		created := false
		handle, err := s.lookup(l, pool, name)
		if errors.Is(err, ErrNotFound) {
			handle, err = createVolume(l, pool, name, size, reserve, format)
			created = err == nil
			if libvirtconn.Is(err, libvirt.ErrStorageVolExist) { // another process created it first
				handle, err = s.lookup(l, pool, name)
			}
		}
		if err != nil {
			return fmt.Errorf(
				"create volume %s of %d bytes in storage pool %q: %w; check that the pool has room and is writable",
				name, size, s.config.Pool, err)
		}
		found, err = describe(l, handle)
		found.created = created
		return err
	})
	return found, err
}

// ensureSize is ensure for content that can be written again: a volume that is too small is
// replaced. All of its size is reserved. libvirtd 11.3 crashes if the disk is full in the middle of
// an upload, and refuses to reserve what is not there.
func (s *Libvirt) ensureSize(ctx context.Context, what, name string, size int64) (volume, error) {
	found, err := s.ensure(ctx, what, name, size, size, rawFormat)
	if err != nil || found.capacity >= size {
		return found, err
	}
	if err := s.delete(ctx, what, name); err != nil {
		return volume{}, err
	}
	return s.ensure(ctx, what, name, size, size, rawFormat)
}

// volumeDefinition describes a volume, of which some bytes are reserved.
func volumeDefinition(name string, size, reserve int64, format string) (string, error) {
	definition, err := xml.Marshal(libvirtxml.StorageVolume{
		Name:       name,
		Capacity:   &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: uint64(size)},
		Allocation: &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: uint64(reserve)},
		Target:     &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: format}},
	})
	if err != nil {
		return "", fmt.Errorf("describe volume %s: %w", name, err)
	}
	return string(definition), nil
}

// delete removes a volume. It is no error if there is none.
func (s *Libvirt) delete(ctx context.Context, what, name string) error {
	err := s.call(ctx, what, reading, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		handle, err := s.lookup(l, pool, name)
		if err != nil {
			return err
		}
		if err := l.StorageVolDelete(handle, 0); err != nil && !libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
			return fmt.Errorf("volume %s in storage pool %q: %w", name, s.config.Pool, err)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// read returns length bytes from the start of a volume; ErrNotFound if it was deleted meanwhile.
func (s *Libvirt) read(ctx context.Context, what string, from volume, length int64) ([]byte, error) {
	var data []byte
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		var err error
		data, err = t.Download(from.StorageVol, 0, length)
		return err
	})
	return data, absent(from.Name, err)
}

// isComplete reports whether the first bytes of a volume were written, which happens last.
func (s *Libvirt) isComplete(ctx context.Context, what string, of volume) (bool, error) {
	length := min(of.capacity, HeadSize)
	if length == 0 {
		return false, nil
	}
	head, err := s.read(ctx, what, of, length)
	return err == nil && !isZero(head), err
}

// upload writes content to a volume, and its first bytes last.
func (s *Libvirt) upload(ctx context.Context, what string, to volume, head []byte, size int64, content io.ReaderAt,
	progress Progress) error {
	report := func(done int64) {
		if progress != nil {
			progress(done, size)
		}
	}
	first := int64(len(head))
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		if size > first {
			rest := io.NewSectionReader(content, first, size-first)
			if err := t.Upload(to.StorageVol, first, size-first, rest, report); err != nil {
				return err
			}
		}
		return t.Upload(to.StorageVol, 0, first, bytes.NewReader(head), nil)
	})
	if err != nil {
		return fmt.Errorf("storage pool %q, volume %s: %w", s.config.Pool, to.path, err)
	}
	report(size)
	return nil
}

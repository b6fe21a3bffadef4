package store

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// lockSize is the size of a lock volume in bytes. Nothing is ever written to it.
const lockSize = 4096

// Lock implements Store. With an Exclusive lock under which all was swept goes a pool that was made for this store.
func (s *Libvirt) Lock(ctx context.Context, mode LockMode, tell func(step string)) (context.Context, func() error, error) {
	locked, unlock, err := s.locker.Lock(ctx, mode, tell)
	if err != nil || mode != Exclusive {
		return locked, unlock, err
	}
	return locked, func() error {
		if err := unlock(); err != nil {
			return err
		}
		if !s.swept.Swap(false) {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockReleaseTimeout)
		defer cancel()
		return s.dropPool(ctx)
	}, nil
}

// lockVolumes are the lock volumes of a pool. A pool that is not there is made: a lock is for changing it.
type lockVolumes struct{ *Libvirt }

// CreateLock implements LockVolumes.
func (s lockVolumes) CreateLock(ctx context.Context, name string) error {
	return s.call(ctx, "make lock "+name, true, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		_, err := makeVolume(l, pool, name, lockSize, lockSize)
		if libvirtconn.Is(err, libvirt.ErrStorageVolExist) {
			return nil // an answer was lost: nobody else uses the name
		}
		return err
	})
}

// Locks implements LockVolumes.
func (s lockVolumes) Locks(ctx context.Context) ([]string, error) {
	var names []string
	err := s.call(ctx, "list locks", true, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		names = nil
		// Others that have the pool on a shared disk make volumes too.
		if err := s.refresh(l, pool); err != nil {
			return err
		}
		all, _, err := l.StoragePoolListAllVolumes(pool, 1, 0)
		if err != nil {
			return err
		}
		for _, one := range all {
			if name, ours := ParseVolumeName(one.Name); ours && name.Kind == LockVolume {
				names = append(names, one.Name)
			}
		}
		return nil
	})
	return names, err
}

// DeleteLock implements LockVolumes.
func (s lockVolumes) DeleteLock(ctx context.Context, name string) error {
	return s.call(ctx, "delete lock "+name, false, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		volume, err := l.StorageVolLookupByName(pool, name)
		if err == nil {
			err = l.StorageVolDelete(volume, 0)
		}
		if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
			return fmt.Errorf("volume %s: %w", name, ErrNotFound)
		}
		return err
	})
}

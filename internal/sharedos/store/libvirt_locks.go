package store

import (
	"context"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// lockSize is the size of a lock volume in bytes. Nothing is ever written to it.
const lockSize = 4096

// Lock implements Locks. If everything was swept under an Exclusive lock, unlock also removes a
// pool that this store created.
func (s *Libvirt) Lock(ctx context.Context, mode LockMode,
	report func(step string)) (context.Context, func() error, error) {
	locked, unlock, err := s.locker.Lock(ctx, mode, report)
	if err != nil || mode != Exclusive {
		return locked, unlock, err
	}
	return locked, func() error {
		if err := unlock(); err != nil {
			return err
		}
		if !s.empty.Swap(false) {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockReleaseTimeout)
		defer cancel()
		return s.removePool(ctx)
	}, nil
}

// lockVolumes are the lock volumes of a pool. Whoever locks a pool is about to change it, so a missing pool is created.
type lockVolumes struct{ *Libvirt }

// CreateLock implements LockVolumes.
func (s lockVolumes) CreateLock(ctx context.Context, name string) error {
	return s.call(ctx, "create lock "+name, storing, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		_, err := createVolume(l, pool, name, lockSize, lockSize, rawFormat)
		if libvirtconn.Is(err, libvirt.ErrStorageVolExist) {
			return nil // nobody else uses the name, so an earlier call created it and its answer was lost
		}
		return err
	})
}

// Locks implements LockVolumes.
func (s lockVolumes) Locks(ctx context.Context) ([]string, error) {
	var names []string
	err := s.call(ctx, "list locks", storing, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		names = nil
		handles, err := s.handles(l, pool, LockVolume)
		for _, handle := range handles {
			names = append(names, handle.Name)
		}
		return err
	})
	return names, err
}

// DeleteLock implements LockVolumes.
func (s lockVolumes) DeleteLock(ctx context.Context, name string) error {
	return s.call(ctx, "delete lock "+name, reading, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		handle, err := l.StorageVolLookupByName(pool, name)
		if err == nil {
			err = l.StorageVolDelete(handle, 0)
		}
		return absent(name, err)
	})
}

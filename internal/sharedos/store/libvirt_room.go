package store

import (
	"context"
	"errors"
	"slices"

	"github.com/digitalocean/go-libvirt"
)

// Room implements Disks.
func (s *Libvirt) Room(ctx context.Context) (room Room, err error) {
	err = s.call(ctx, "ask for the room in the storage pool", reading,
		func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
			_, capacity, _, available, err := l.StoragePoolGetInfo(pool)
			if err != nil {
				return err
			}
			definition, err := poolDefinition(l, pool)
			if err != nil {
				return err
			}
			room = Room{Capacity: int64(capacity), Available: int64(available), Thin: definition.Type != "logical"} //nolint:gosec // pools are smaller
			if slices.Contains([]string{"dir", "fs", "netfs"}, definition.Type) && definition.Target != nil {
				room.Directory = definition.Target.Path
			}
			return nil
		})
	if errors.Is(err, ErrNotFound) {
		room.Directory = s.config.CreatePath
	}
	return room, err
}

package store

import (
	"context"

	"github.com/digitalocean/go-libvirt"
)

// Room implements Disks.
func (s *Libvirt) Room(ctx context.Context) (room Room, err error) {
	err = s.call(ctx, "ask for the room in the storage pool", reading, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		_, capacity, _, available, err := l.StoragePoolGetInfo(pool)
		if err != nil {
			return err
		}
		definition, err := poolDefinition(l, pool)
		if err != nil {
			return err
		}
		room = Room{Capacity: int64(capacity), Available: int64(available), Thin: definition.Type != "logical"} //nolint:gosec // pools are smaller
		return nil
	})
	return room, err
}

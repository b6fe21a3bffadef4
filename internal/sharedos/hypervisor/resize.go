package hypervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// ResizeDisk implements Hypervisor.
func (h *Libvirt) ResizeDisk(ctx context.Context, name string, size int64) error {
	what := fmt.Sprintf("resize the private disk of domain %q", name)
	if size <= 0 {
		return fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		if !found.state.alive() {
			return ErrNotRunning
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil {
			return err
		}
		if live.Devices == nil {
			return errors.New("it has no devices")
		}
		for _, disk := range live.Devices.Disks {
			if disk.Serial != agentapi.PrivateDiskSerial || disk.Target == nil {
				continue
			}
			// The size that QEMU knows, and the guest with it, whatever the volume has grown to.
			_, capacity, _, err := l.DomainGetBlockInfo(found.Domain, disk.Target.Dev, 0)
			if err != nil {
				return err
			}
			if capacity >= uint64(size) {
				return nil
			}
			return l.DomainBlockResize(found.Domain, disk.Target.Dev, uint64(size), libvirt.DomainBlockResizeBytes)
		}
		return fmt.Errorf("it has no disk with the serial %s", agentapi.PrivateDiskSerial)
	})
}

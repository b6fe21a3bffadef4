package hypervisor

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// LinksDown implements Hypervisor.
func (h *Libvirt) LinksDown(ctx context.Context, name string) ([]string, error) {
	var down []string
	err := h.call(ctx, fmt.Sprintf("read the links of domain %q", name), func(l *libvirt.Libvirt) error {
		down = nil
		found, err := find(l, name)
		switch {
		case err != nil:
			return err
		case !found.state.alive():
			return ErrNotRunning
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil || live.Devices == nil {
			return err
		}
		for _, one := range live.Devices.Interfaces {
			if has, ok := nameOf(one); ok && isDown(one) {
				down = append(down, has)
			}
		}
		return nil
	})
	return down, err
}

// SetLink implements Hypervisor. The definition is changed last: if changing it fails, a later call changes it.
func (h *Libvirt) SetLink(ctx context.Context, name, iface string, down bool) error {
	return h.call(ctx, fmt.Sprintf("set the link of interface %q of domain %q", iface, name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		if interfaceOf(found.defined, iface) == nil {
			return ErrNoInterface
		}
		if found.state.alive() {
			live, err := describe(l, found.Domain, 0)
			if err != nil {
				return err
			}
			if err := updateLink(l, found.Domain, live, iface, down, libvirt.DomainAffectLive); err != nil {
				return err
			}
		}
		return updateLink(l, found.Domain, found.defined, iface, down, libvirt.DomainAffectConfig)
	})
}

// updateLink changes the link of an interface as a definition describes it. It does nothing if the definition does not have
// the interface.
func updateLink(l *libvirt.Libvirt, domain libvirt.Domain, of *libvirtxml.Domain, iface string, down bool,
	impact libvirt.DomainModificationImpact,
) error {
	one := interfaceOf(of, iface)
	if one == nil || isDown(*one) == down {
		return nil
	}
	one.Link = linkOf(down)
	text, err := one.Marshal()
	if err != nil {
		return fmt.Errorf("describe the device: %w", err)
	}
	return l.DomainUpdateDeviceFlags(domain, text, libvirt.DomainDeviceModifyFlags(impact))
}

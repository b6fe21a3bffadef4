package hypervisortest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// known are the interfaces of a domain that libvirt knows.
func known(d hypervisor.Domain) map[string]hypervisor.Interface {
	cards := map[string]hypervisor.Interface{}
	for name, one := range d.Interfaces {
		if one.User == nil {
			cards[name] = one.Defined(d.UUID, name)
		}
	}
	return cards
}

// AttachInterface implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachInterface(ctx context.Context, name, iface string,
	device hypervisor.Interface, reserved int) error {
	return h.on(ctx, "AttachInterface", name, true, func(d *domain) error {
		fail := func(err error) error { return fmt.Errorf("attach interface %q to domain %q: %w", iface, name, err) }
		if device.User != nil {
			return fail(hypervisor.ErrNoInterface)
		}
		changed := clone(d.Domain)
		if _, has := d.Interfaces[iface]; !has {
			if changed.Interfaces == nil {
				changed.Interfaces = map[string]hypervisor.Interface{}
			}
			changed.Interfaces[iface] = device.Defined(d.UUID, iface)
		}
		if err := changed.Check(); err != nil {
			return fail(err)
		}
		if err := h.vlans(map[string]hypervisor.Interface{iface: device}); err != nil {
			return fail(err)
		}
		if _, has := d.cards[iface]; d.state == hypervisor.Running && !has {
			if d.free() <= reserved {
				return fail(hypervisor.ErrNoPort)
			}
			d.plug(iface, &device)
		}
		d.Domain = changed
		return nil
	})
}

// plug sets an interface of a running domain, or removes it if device is nil.
func (d *domain) plug(iface string, device *hypervisor.Interface) {
	d.cards = maps.Clone(d.cards)
	if device == nil {
		delete(d.cards, iface)
		return
	}
	d.cards[iface] = device.Defined(d.UUID, iface)
}

// DetachInterface implements hypervisor.Hypervisor.
func (h *Hypervisor) DetachInterface(ctx context.Context, name, iface string) error {
	return h.on(ctx, "DetachInterface", name, true, func(d *domain) error {
		if _, has := d.cards[iface]; d.state == hypervisor.Running && has {
			if h.Deaf {
				h.mu.Unlock()
				<-ctx.Done()
				h.mu.Lock()
				return fmt.Errorf("detach interface %q from domain %q: the guest has not released it: %w", iface, name,
					ctx.Err())
			}
			d.plug(iface, nil)
		}
		changed := clone(d.Domain)
		if changed.Interfaces[iface].User == nil {
			delete(changed.Interfaces, iface)
		}
		d.Domain = changed
		return nil
	})
}

// UpdateInterface implements hypervisor.Hypervisor.
func (h *Hypervisor) UpdateInterface(ctx context.Context, name, iface string, device hypervisor.Interface) error {
	return h.on(ctx, "UpdateInterface", name, true, func(d *domain) error {
		moved := func(one hypervisor.Interface) hypervisor.Interface {
			one.Bridge, one.Network, one.Down = device.Bridge, device.Network, device.Down
			return one
		}
		one, runs := d.cards[iface]
		if runs = runs && d.state == hypervisor.Running; runs {
			one = moved(one)
			d.plug(iface, &one)
		}
		one, ok := d.Interfaces[iface]
		switch {
		case ok && one.User == nil:
		case runs:
			return nil
		default:
			return fmt.Errorf("change interface %q of domain %q: %w", iface, name, hypervisor.ErrNoInterface)
		}
		changed := clone(d.Domain)
		changed.Interfaces[iface] = moved(one)
		d.Domain = changed
		return nil
	})
}

// AttachedInterfaces implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachedInterfaces(ctx context.Context, name string) (map[string]hypervisor.Interface, error) {
	if err := h.enter(ctx, "AttachedInterfaces", name, false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.running("read the interfaces of", name)
	if err != nil {
		return nil, err
	}
	return maps.Clone(d.cards), nil
}

// Replug changes an interface of a running domain and leaves its definition, as a person could (virsh update-device,
// attach-device and detach-device with --live). change gets nil if there is none, and returns nil to detach it.
func (h *Hypervisor) Replug(name, iface string, change func(*hypervisor.Interface) *hypervisor.Interface) {
	h.change(name, func(d *domain) {
		var is *hypervisor.Interface
		if one, has := d.cards[iface]; has {
			is = &one
		}
		d.plug(iface, change(is))
	})
}

// Cable sets the link of an interface of a running domain and leaves its definition, as a person
// could (virsh domif-setlink).
func (h *Hypervisor) Cable(name, iface string, down bool) {
	h.Replug(name, iface, func(one *hypervisor.Interface) *hypervisor.Interface {
		one.Down = down
		return one
	})
}

// CheckVLAN implements hypervisor.Hypervisor.
func (h *Hypervisor) CheckVLAN(ctx context.Context, bridge string) error {
	if err := h.enter(ctx, "CheckVLAN", "", false); err != nil {
		return err
	}
	return h.checkVLAN(bridge)
}

func (h *Hypervisor) checkVLAN(bridge string) error {
	if !slices.Contains(h.VLANs, bridge) {
		return fmt.Errorf("%w: bridge %q does not filter VLANs", hypervisor.ErrNoVLAN, bridge)
	}
	return nil
}

// vlans checks the bridges of interfaces that are to be in a VLAN.
func (h *Hypervisor) vlans(interfaces map[string]hypervisor.Interface) error {
	for _, one := range interfaces {
		if one.VLAN == 0 {
			continue
		}
		if err := h.checkVLAN(one.Bridge); err != nil {
			return err
		}
	}
	return nil
}

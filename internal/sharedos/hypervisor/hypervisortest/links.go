package hypervisortest

import (
	"context"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// SetLink implements hypervisor.Hypervisor.
func (h *Hypervisor) SetLink(ctx context.Context, name, iface string, down bool) error {
	if err := h.enter(ctx, "SetLink", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return err
	}
	one, ok := d.Interfaces[iface]
	if !ok || one.User != nil {
		return fmt.Errorf("set the link of interface %q of domain %q: %w", iface, name, hypervisor.ErrNoInterface)
	}
	changed := clone(d.Domain)
	one.Down = down
	changed.Interfaces[iface] = one
	d.Domain = changed
	if d.state == hypervisor.Running {
		d.link(iface, down)
	}
	return nil
}

// LinksDown implements hypervisor.Hypervisor.
func (h *Hypervisor) LinksDown(ctx context.Context, name string) ([]string, error) {
	if err := h.enter(ctx, "LinksDown", name, false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	switch {
	case err != nil:
		return nil, err
	case d.state != hypervisor.Running:
		return nil, fmt.Errorf("read the links of domain %q: %w", name, hypervisor.ErrNotRunning)
	}
	return slices.Sorted(slices.Values(d.linksDown)), nil
}

package hypervisortest

import (
	"context"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// SetTitle implements hypervisor.Hypervisor.
func (h *Hypervisor) SetTitle(ctx context.Context, name, title string) error {
	return h.set(ctx, "SetTitle", name, hypervisor.CheckTitle(title), func(d *domain) { d.Title = title })
}

// SetDescription implements hypervisor.Hypervisor.
func (h *Hypervisor) SetDescription(ctx context.Context, name, description string) error {
	return h.set(ctx, "SetDescription", name, hypervisor.CheckDescription(description),
		func(d *domain) { d.Description = description })
}

// SetAutostart implements hypervisor.Hypervisor.
func (h *Hypervisor) SetAutostart(ctx context.Context, name string, on bool) error {
	return h.set(ctx, "SetAutostart", name, nil, func(d *domain) { d.autostart = on })
}

// set changes a domain, unless the value is wrong.
func (h *Hypervisor) set(ctx context.Context, method, name string, wrong error, change func(*domain)) error {
	if err := h.enter(ctx, method, name, true); err != nil {
		return err
	}
	if wrong != nil {
		return wrong
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err == nil {
		change(d)
	}
	return err
}

// Autostarted implements hypervisor.Hypervisor.
func (h *Hypervisor) Autostarted(ctx context.Context) (map[string]bool, error) {
	if err := h.enter(ctx, "Autostarted", "", false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	found := map[string]bool{}
	for _, d := range h.domains {
		if d.autostart {
			found[d.UUID] = true
		}
	}
	return found, nil
}

// StartsAlone implements hypervisor.Hypervisor.
func (h *Hypervisor) StartsAlone(ctx context.Context) (bool, error) {
	if err := h.enter(ctx, "StartsAlone", "", false); err != nil {
		return false, err
	}
	return !h.NotAlone, nil
}

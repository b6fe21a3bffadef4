package hypervisortest

import (
	"context"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// SetShares implements hypervisor.Hypervisor.
func (h *Hypervisor) SetShares(ctx context.Context, name string, shares int) error {
	return h.setCompute(ctx, "SetShares", name, func(d *domain) (keeps bool) {
		d.shares = shares
		return false
	})
}

// Shares returns the shares of a running domain.
func (h *Hypervisor) Shares(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d, ok := h.domains[name]; ok {
		return d.shares
	}
	return 0
}

// Accepts implements hypervisor.Hypervisor.
func (h *Hypervisor) Accepts(ctx context.Context, domain hypervisor.Domain) error {
	if err := h.enter(ctx, "Accepts", domain.Name, false); err != nil {
		return err
	}
	err := domain.Check()
	if err == nil && h.Refuse != nil {
		err = h.Refuse(domain)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", hypervisor.ErrRefused, err)
	}
	return nil
}

// CPUModels implements hypervisor.Hypervisor.
func (h *Hypervisor) CPUModels(ctx context.Context) ([]string, error) {
	if err := h.enter(ctx, "CPUModels", "", false); err != nil {
		return nil, err
	}
	if h.Models != nil {
		return h.Models, nil
	}
	return []string{"Nehalem", hypervisor.CPUHostModel, hypervisor.CPUHostPassthrough, hypervisor.CPUMaximum}, nil
}

// FreePages implements hypervisor.Hypervisor.
func (h *Hypervisor) FreePages(ctx context.Context, size int64) (int64, error) {
	if err := h.enter(ctx, "FreePages", "", false); err != nil {
		return 0, err
	}
	return h.Pages[size], nil
}

// HasDevice implements hypervisor.Hypervisor.
func (h *Hypervisor) HasDevice(ctx context.Context, device hypervisor.HostDevice) (bool, error) {
	if err := h.enter(ctx, "HasDevice", "", false); err != nil {
		return false, err
	}
	return slices.Contains(h.Devices, device), nil
}

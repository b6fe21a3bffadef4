package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Lookup implements hypervisor.Hypervisor.
func (h *Hypervisor) Lookup(ctx context.Context, name string) (hypervisor.Domain, hypervisor.State, error) {
	if err := h.enter(ctx, "Lookup", name, false); err != nil {
		return hypervisor.Domain{}, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lookup(name)
}

func (h *Hypervisor) lookup(name string) (hypervisor.Domain, hypervisor.State, error) {
	d, err := h.find(name)
	switch {
	case errors.Is(err, hypervisor.ErrForeign):
		return hypervisor.Domain{Name: d.Name, UUID: d.UUID}, d.state, err
	case err != nil:
		return hypervisor.Domain{}, 0, err
	case d.damaged:
		return hypervisor.Domain{Name: d.Name, UUID: d.UUID}, d.state,
			fmt.Errorf("domain %q: %w", name, hypervisor.ErrDamaged)
	}
	return clone(d.Domain), d.state, nil
}

// LookupUUID implements hypervisor.Hypervisor.
func (h *Hypervisor) LookupUUID(ctx context.Context, uuid string) (hypervisor.Domain, hypervisor.State, error) {
	if err := h.enter(ctx, "LookupUUID", uuid, false); err != nil {
		return hypervisor.Domain{}, 0, err
	}
	if len(uuid) != len("00000000-0000-0000-0000-000000000000") {
		return hypervisor.Domain{}, 0, fmt.Errorf("look up a domain by its UUID: %q is none", uuid)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.domains {
		if d.UUID == uuid {
			return h.lookup(name)
		}
	}
	return hypervisor.Domain{}, 0, fmt.Errorf("domain with UUID %s: %w", uuid, hypervisor.ErrNotFound)
}

// List implements hypervisor.Hypervisor.
func (h *Hypervisor) List(ctx context.Context) ([]hypervisor.Domain, error) {
	listed, err := h.list(ctx, "List")
	if err != nil {
		return nil, err
	}
	var all []hypervisor.Domain
	for _, one := range listed {
		if one.Damaged != nil {
			return nil, one.Damaged
		}
		all = append(all, one.Domain)
	}
	return all, nil
}

// Inventory implements hypervisor.Hypervisor.
func (h *Hypervisor) Inventory(ctx context.Context) ([]hypervisor.Listed, error) {
	return h.list(ctx, "Inventory")
}

func (h *Hypervisor) list(ctx context.Context, method string) ([]hypervisor.Listed, error) {
	if err := h.enter(ctx, method, "", false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []hypervisor.Listed
	for _, name := range slices.Sorted(maps.Keys(h.domains)) {
		d := h.domains[name]
		switch {
		case d.foreign:
		case d.damaged:
			all = append(all, hypervisor.Listed{
				Domain: hypervisor.Domain{Name: name, UUID: d.UUID}, State: d.state,
				Damaged: fmt.Errorf("domain %q: %w", name, hypervisor.ErrDamaged),
			})
		default:
			all = append(all, hypervisor.Listed{Domain: clone(d.Domain), State: d.state})
		}
	}
	return all, nil
}

// BootFiles implements hypervisor.Hypervisor.
func (h *Hypervisor) BootFiles(ctx context.Context) ([]string, error) {
	if err := h.enter(ctx, "BootFiles", "", false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var files []string
	for _, d := range h.domains {
		files = append(files, d.Kernel, d.Initramfs)
		if d.state == hypervisor.Running {
			files = append(files, d.booted...)
		}
	}
	files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
	slices.Sort(files)
	return slices.Compact(files), nil
}

// Facts implements hypervisor.Hypervisor. The host emulates its guests, and has a kernel with vhost-vsock.
func (h *Hypervisor) Facts(ctx context.Context) (hypervisor.Facts, error) {
	if err := h.enter(ctx, "Facts", "", false); err != nil {
		return hypervisor.Facts{}, err
	}
	limits, err := h.Limits(ctx)
	return hypervisor.Facts{
		Libvirt: "11.3.0", QEMU: "10.0.2", VSock: hypervisor.VSockVhost, Limits: limits, StartsAlone: !h.NotAlone,
	}, err
}

// Limits implements hypervisor.Hypervisor. Without Host, a host has four processors and 64 GiB of memory.
func (h *Hypervisor) Limits(ctx context.Context) (hypervisor.Limits, error) {
	if err := h.enter(ctx, "Limits", "", false); err != nil {
		return hypervisor.Limits{}, err
	}
	if h.Host != (hypervisor.Limits{}) {
		return h.Host, nil
	}
	return hypervisor.Limits{VCPUs: hypervisor.MaxVCPUs, Processors: 4, Memory: 64 << 30}, nil
}

// NetworkActive implements hypervisor.Hypervisor.
func (h *Hypervisor) NetworkActive(ctx context.Context, name string) (bool, error) {
	if err := h.enter(ctx, "NetworkActive", name, false); err != nil {
		return false, err
	}
	active, ok := h.Networks[name]
	if !ok {
		return false, fmt.Errorf("network %q: %w", name, hypervisor.ErrNoNetwork)
	}
	return active, nil
}

// IsBridge implements hypervisor.Hypervisor.
func (h *Hypervisor) IsBridge(ctx context.Context, name string) (bool, error) {
	if err := h.enter(ctx, "IsBridge", name, false); err != nil {
		return false, err
	}
	return slices.Contains(h.Bridges, name), hypervisor.CheckBridgeName(name)
}

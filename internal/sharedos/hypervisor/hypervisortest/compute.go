package hypervisortest

import (
	"context"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// SetVCPUs implements hypervisor.Hypervisor.
func (h *Hypervisor) SetVCPUs(ctx context.Context, name string, count int) error {
	return h.setCompute(ctx, "SetVCPUs", name, func(d *domain) (keeps bool) {
		if keeps = h.Deaf && count < d.vcpus; !keeps {
			d.vcpus = count
		}
		return keeps
	})
}

// SetMemory implements hypervisor.Hypervisor.
func (h *Hypervisor) SetMemory(ctx context.Context, name string, bytes int64) error {
	return h.setCompute(ctx, "SetMemory", name, func(d *domain) (keeps bool) {
		if keeps = h.Deaf && bytes != d.memory; !keeps {
			d.memory = bytes
		}
		return keeps
	})
}

func (h *Hypervisor) setCompute(ctx context.Context, method, name string, set func(*domain) (keeps bool)) error {
	if err := h.enter(ctx, method, name, true); err != nil {
		return err
	}
	keeps, err := func() (bool, error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		d, err := h.find(name)
		switch {
		case err != nil:
			return false, err
		case d.state != hypervisor.Running:
			return false, hypervisor.ErrNotRunning
		}
		return set(d), nil
	}()
	if err == nil && keeps {
		<-ctx.Done()
		err = fmt.Errorf("%w: %w", hypervisor.ErrGuestKeeps, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("%s of domain %q: %w", method, name, err)
	}
	return nil
}

// VCPUsNow implements hypervisor.Hypervisor.
func (h *Hypervisor) VCPUsNow(ctx context.Context, name string) (int, error) {
	if err := h.enter(ctx, "VCPUsNow", name, false); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	switch {
	case err != nil:
		return 0, err
	case d.state != hypervisor.Running:
		return 0, fmt.Errorf("count the processors of domain %q: %w", name, hypervisor.ErrNotRunning)
	}
	return d.vcpus, nil
}

// MemoryNow is how much memory a running domain has in bytes, and 0 if there is none of the name.
func (h *Hypervisor) MemoryNow(name string) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d, ok := h.domains[name]; ok {
		return d.memory
	}
	return 0
}

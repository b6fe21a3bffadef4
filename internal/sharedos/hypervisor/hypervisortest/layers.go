package hypervisortest

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// AttachLayer implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachLayer(ctx context.Context, name string, layer hypervisor.LayerDevice) error {
	return h.on(ctx, "AttachLayer", name, true, func(d *domain) error {
		changed := clone(d.Domain)
		if !slices.ContainsFunc(d.Layers, func(l hypervisor.LayerDevice) bool { return l.ID == layer.ID }) {
			changed.Layers = append(changed.Layers, layer)
		}
		if err := changed.Check(); err != nil {
			return err
		}
		if d.state == hypervisor.Running && !slices.Contains(d.attached, layer.ID) {
			if d.free() <= 0 {
				return fmt.Errorf("attach layer %s to domain %q: %w", layer.ID, name, hypervisor.ErrNoPort)
			}
			if _, err := os.Stat(layer.Path); err != nil && !h.NoFiles {
				return fmt.Errorf("attach layer %s to domain %q: %w", layer.ID, name, err)
			}
			if h.OnAttach != nil {
				if err := h.OnAttach(name, layer); err != nil {
					return fmt.Errorf("attach layer %s to domain %q: %w", layer.ID, name, err)
				}
			}
			d.attached = append(d.attached, layer.ID)
		}
		d.Domain = changed
		return nil
	})
}

// AttachedLayers implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachedLayers(ctx context.Context, name string) ([]tree.Digest, error) {
	var attached []tree.Digest
	err := h.on(ctx, "AttachedLayers", name, false, func(d *domain) error {
		if d.state == hypervisor.Running {
			attached = slices.Clone(d.attached)
		}
		return nil
	})
	return attached, err
}

// DetachLayer implements hypervisor.Hypervisor.
func (h *Hypervisor) DetachLayer(ctx context.Context, name string, id tree.Digest) error {
	return h.on(ctx, "DetachLayer", name, true, func(d *domain) error {
		if d.state == hypervisor.Running && slices.Contains(d.attached, id) {
			if h.Deaf {
				h.mu.Unlock()
				<-ctx.Done()
				h.mu.Lock()
				return fmt.Errorf("detach layer %s from domain %q: the guest has not released it: %w", id, name,
					ctx.Err())
			}
			if h.OnDetach != nil {
				if err := h.OnDetach(name, id); err != nil {
					return fmt.Errorf("detach layer %s from domain %q: %w", id, name, err)
				}
			}
			d.unplugLayer(id)
		}
		d.Layers = slices.DeleteFunc(slices.Clone(d.Layers), func(l hypervisor.LayerDevice) bool { return l.ID == id })
		return nil
	})
}

// unplugLayer takes a layer from a running domain.
func (d *domain) unplugLayer(id tree.Digest) {
	d.attached = slices.DeleteFunc(slices.Clone(d.attached), func(p tree.Digest) bool { return p == id })
}

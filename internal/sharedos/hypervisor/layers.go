package hypervisor

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// AttachedLayers implements Hypervisor.
func (h *Libvirt) AttachedLayers(ctx context.Context, name string) ([]tree.Digest, error) {
	var ids []tree.Digest
	err := h.call(ctx, fmt.Sprintf("list the layers of domain %q", name), func(l *libvirt.Libvirt) error {
		ids = nil
		found, err := find(l, name)
		if err != nil || !found.state.alive() {
			return err
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil {
			return err
		}
		for _, layer := range layersOf(live) {
			ids = append(ids, layer.ID)
		}
		return nil
	})
	return ids, err
}

// AttachLayer implements Hypervisor.
func (h *Libvirt) AttachLayer(ctx context.Context, name string, layer LayerDevice) error {
	what := fmt.Sprintf("attach layer %s to domain %q", layer.ID, name)
	if err := layer.check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.attachDisk(ctx, what, name, layerAliasOf(layer.ID), 0,
		func(definition *libvirtxml.Domain) error { return checkAddition(definition, layer) }, layer.disk)
}

// DetachLayer implements Hypervisor. The layer leaves the definition last: if detaching fails
// before that, the definition still has it, and a later call detaches it again.
func (h *Libvirt) DetachLayer(ctx context.Context, name string, id tree.Digest) error {
	return h.detach(ctx, fmt.Sprintf("detach layer %s from domain %q", id, name), name, layerAliasOf(id))
}

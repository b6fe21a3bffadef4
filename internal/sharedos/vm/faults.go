package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Fault is something that a VM should have and does not have, as a read finds it.
type Fault struct {
	// Object names what is missing or wrong, such as "layer sha256:…", and Problem says what is
	// wrong with it and what to do.
	Object, Problem string
	// Mended is true if the next update mends it.
	Mended bool
}

// definitionFaults compares a definition with its own record, and with the files that it boots from.
func (f *Fleet) definitionFaults(ctx context.Context, domain hypervisor.Domain) ([]Fault, error) {
	var faults []Fault
	if domain.PrivateDisk == "" && !domain.Metadata.BeingMade() {
		faults = append(faults,
			Fault{"private disk", "the definition of the VM does not have it; the next apply defines it again", true})
	}
	faults = append(faults, patchFaults(domain)...)
	stored, err := f.objects(ctx)
	if err != nil {
		return nil, err
	}
	layers := slices.Clone(domain.Metadata.Stack.Layers)
	for _, id := range domain.Metadata.Offer.LayerIDs() {
		if !slices.ContainsFunc(layers, func(l release.Layer) bool { return l.ID == id }) {
			layers = append(layers, release.Layer{ID: id}) // the size of what is offered is not recorded
		}
	}
	for _, layer := range layers {
		object := "layer " + layer.ID.String()
		if !slices.ContainsFunc(domain.Layers, func(l hypervisor.LayerDevice) bool { return l.ID == layer.ID }) {
			faults = append(faults,
				Fault{object, "the definition of the VM does not have it; the next apply defines it again", true})
		}
		switch size, there := stored[store.LayerName(layer.ID)]; {
		case !there:
			faults = append(faults,
				Fault{object, "its volume is gone from the storage pool: the next start of the VM fails; publish the " +
					"release again, or change base to another release", false})
		case size < layer.Size:
			faults = append(faults,
				Fault{object, fmt.Sprintf(
					"its volume in the storage pool has %d bytes instead of %d: delete the volume "+
						"(virsh vol-delete) and publish the release again", size, layer.Size), false})
		}
	}
	for _, file := range []struct{ what, path string }{{"kernel", domain.Kernel}, {"initramfs", domain.Initramfs}} {
		if file.path == "" {
			faults = append(faults,
				Fault{file.what, "the definition of the VM does not name it; the next apply defines it again", true})
			continue
		}
		there, err := f.Machine.Exists(ctx, file.path)
		if err != nil {
			return nil, fmt.Errorf("look for its %s: %w", file.what, err)
		}
		if !there {
			faults = append(faults,
				Fault{file.what, file.path +
					" is gone: the next start of the VM fails; the next apply defines it again", true})
		}
	}
	return faults, nil
}

// attachedFaults lists the layers of the stack that a guest runs and that its domain does not have attached.
func (f *Fleet) attachedFaults(ctx context.Context, domain hypervisor.Domain, running release.Stack) ([]Fault, error) {
	attached, err := f.Hypervisor.AttachedLayers(ctx, domain.Name)
	if err != nil {
		return nil, err
	}
	var faults []Fault
	for _, id := range domain.Metadata.Offer.LayerIDs() {
		if !slices.Contains(attached, id) &&
			!slices.ContainsFunc(running.Layers, func(l release.Layer) bool { return l.ID == id }) {
			faults = append(faults,
				Fault{"layer " + id.String(),
					"it is not attached to the running VM, which may need it for a component on " +
						"demand; the next apply attaches it", true})
		}
	}
	for _, layer := range running.Layers {
		if !slices.Contains(attached, layer.ID) {
			faults = append(faults,
				Fault{"layer " + layer.ID.String(),
					"it is not attached to the running VM, which runs it; the next apply attaches " +
						"it again; if programs in the VM fail after that, power the VM off and start it", true})
		}
	}
	return faults, nil
}

// verify reads the layers and the kernel of a stack that a VM does not have yet, before the VM is
// put on them. What this process has uploaded or verified is not read again. It does not verify
// contents lists, which are verified whenever they are read.
func (f *Fleet) verify(ctx context.Context, stack *composed, has []hypervisor.LayerDevice, progress Progress) error {
	wayOut := func(volume string, err error) error {
		if errors.Is(err, store.ErrCorrupt) {
			return fmt.Errorf(
				"%w; delete the volume (virsh vol-delete --pool %s %s) and apply the base again, which then stores a full layer", err, f.Pool, volume)
		}
		return err
	}
	progress("verifying the layers and the kernel")
	for _, layer := range stack.Layers {
		if slices.ContainsFunc(has, func(l hypervisor.LayerDevice) bool { return l.ID == layer.ID }) {
			continue
		}
		if err := f.Store.VerifyLayer(ctx, layer); err != nil {
			return wayOut(store.LayerName(layer.ID), err)
		}
	}
	for _, blob := range []release.Blob{stack.manifest.Kernel.Image, stack.manifest.Kernel.Modules} {
		if err := f.Store.VerifyBlob(ctx, blob); err != nil {
			return wayOut(store.BlobName(blob.Digest), err)
		}
	}
	return nil
}

// objects returns the capacities of the objects in the pool by their volumes' names.
func (f *Fleet) objects(ctx context.Context) (map[string]int64, error) {
	return f.pooled.get(f.ListedFor, func() (map[string]int64, error) {
		volumes, err := f.Store.ListObjects(ctx)
		if err != nil {
			return nil, fmt.Errorf("list what is in the storage pool: %w", err)
		}
		sizes := make(map[string]int64, len(volumes))
		for _, volume := range volumes {
			sizes[volume.Name] = volume.Capacity
		}
		return sizes, nil
	})
}

// attachMissing attaches what a definition has and its running VM lacks.
func (f *Fleet) attachMissing(ctx context.Context, name string, progress Progress) error {
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil || state != hypervisor.Running {
		return err
	}
	attached, err := f.Hypervisor.AttachedLayers(ctx, name)
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(domain.Layers,
		func(l hypervisor.LayerDevice) bool { return slices.Contains(attached, l.ID) })
	if err := f.attach(ctx, name, missing, progress); err != nil && !errors.Is(err, hypervisor.ErrNoPort) &&
		!errors.Is(err, hypervisor.ErrTooManyLayers) {
		return err
	}
	return nil
}

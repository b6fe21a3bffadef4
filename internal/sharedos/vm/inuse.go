package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// InUse implements Interface. It also lists initramfs blobs, which belong to no release, and the layers that VMs have
// attached, in their definitions or while they run. It ignores VMs of other pools.
func (f *Fleet) InUse(ctx context.Context) (map[tree.Digest][]string, error) {
	domains, err := f.Hypervisor.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the VMs that use a release: %w", err)
	}
	users := map[tree.Digest]map[string]bool{}
	for _, domain := range domains {
		if domain.Metadata.Pool != f.Pool {
			continue
		}
		found, err := f.refersTo(ctx, domain)
		if err != nil {
			return nil, err
		}
		for _, id := range found {
			if users[id] == nil {
				users[id] = map[string]bool{}
			}
			users[id][domain.Name] = true
			// Its private disk keeps the name that the VM was made with, when somebody renames the domain.
			if disk, ok := store.ParseVolumeName(domain.Metadata.PrivateVolume); ok && disk.VM != "" {
				users[id][disk.VM] = true
			}
		}
	}
	inUse := make(map[tree.Digest][]string, len(users))
	for id, names := range users {
		inUse[id] = slices.Sorted(maps.Keys(names))
	}
	return inUse, nil
}

// uses lists what a definition refers to in the store.
func uses(domain hypervisor.Domain) []tree.Digest {
	found := domain.Metadata.Stack.Releases()
	if offer := domain.Metadata.Offer; offer != nil {
		for _, component := range offer.Components {
			found = append(found, component.ID)
		}
		found = append(found, offer.Layers...)
	}
	for _, layer := range domain.Layers {
		found = append(found, layer.ID)
	}
	found = append(found, domain.Metadata.Pinned...)
	if fallback := domain.Metadata.Fallback; fallback != nil {
		found = append(found, fallback.Releases()...)
	}
	if rollout := domain.Metadata.Rollout; rollout != nil && rollout.Moved != nil { // the rollout may take it back
		found = append(found, rollout.Moved.Base)
		found = append(found, rollout.Moved.Components...)
		found = append(found, rollout.Moved.OnDemand...)
	}
	if !domain.Metadata.Initramfs.IsZero() {
		found = append(found, domain.Metadata.Initramfs)
	}
	return found
}

// stored composes a stack and the offer of spec, and stores the releases that are made of others
// for them. The pool must have all others: one that is prepared for a plan, or that was read before
// the pool was locked, may be missing. The caller holds a lock of the store.
func (f *Fleet) stored(ctx context.Context, spec Spec, of recipe) (*composed, *offer, error) {
	for _, id := range of.releases() {
		if _, err := f.Store.GetManifest(ctx, id); err != nil {
			return nil, nil, fmt.Errorf("read release %s: %w", id, err)
		}
	}
	stack, offer, err := f.storeDerived(ctx, spec, of)
	if errors.Is(
		err, store.ErrNotFound) { // what was composed before is of releases that a collection has deleted since
		f.stacks.forget()
		f.offers.forget()
		stack, offer, err = f.storeDerived(ctx, spec, of)
	}
	return stack, offer, err
}

// storeDerived composes a stack and the offer of spec, and stores what was made for them.
func (f *Fleet) storeDerived(ctx context.Context, spec Spec, of recipe) (*composed, *offer, error) {
	stack, err := f.stack(ctx, of)
	if err != nil {
		return nil, nil, err
	}
	offer, err := f.offer(ctx, spec, false)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range append(offer.derived(), stack.derived...) {
		if err := f.Deriver.PublishDerived(ctx, id); err != nil {
			return nil, nil, err
		}
	}
	return stack, offer, nil
}

// pin verifies and attaches what a refresh needs, and records the releases that it moves the guest between, so that no
// collection deletes them.
func (f *Fleet) pin(ctx context.Context, spec Spec, current release.Stack, target *composed,
	progress Progress) (err error) {
	name := spec.Name
	ctx, unlock, err := f.Store.Lock(ctx, store.Shared, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	if _, _, err := f.stored(ctx, spec, recipeOf(target.Stack)); err != nil {
		return err
	}
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return err
	}
	if err := f.verify(ctx, target, domain.Layers, progress); err != nil {
		return err
	}
	metadata := domain.Metadata
	metadata.Pinned = slices.Concat(current.Releases(), target.Releases())
	if err := f.Hypervisor.SetMetadata(ctx, name, metadata); err != nil {
		return fmt.Errorf("record what the refresh is about: %w", err)
	}
	return f.plug(ctx, domain, target.Stack, progress)
}

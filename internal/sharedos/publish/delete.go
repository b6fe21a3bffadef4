package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// InUse returns the VMs, running or not, by the objects in the store that they refer to.
type InUse func(ctx context.Context) (map[tree.Digest][]string, error)

// Delete implements Interface. It is no error if there is no such base: what an interrupted Delete left is deleted.
func (p *Publisher) Delete(ctx context.Context, name string, inUse InUse) error {
	if err := p.delete(ctx, name, inUse); err != nil {
		return fmt.Errorf("delete %s %q: %w", p.kind(), name, err)
	}
	return nil
}

func (p *Publisher) delete(ctx context.Context, name string, ask InUse) error {
	of := store.Named{Kind: p.kind(), Name: name}
	_, err := p.collect(ctx, of, ask,
		func(history store.History, users map[tree.Digest][]string) (store.History, error) {
			if err := p.requireNoComponents(ctx, history); err != nil {
				return store.History{}, err
			}
			var all []string
			for _, vms := range users {
				all = append(all, vms...)
			}
			if len(all) > 0 {
				slices.Sort(all)
				return store.History{},
					fmt.Errorf("used by VM %s: %w", strings.Join(slices.Compact(all), ", "), store.ErrInUse)
			}
			return store.History{}, nil
		})
	return err
}

// requireNoComponents returns an error if the newest release of a component is built on a release of a base.
func (p *Publisher) requireNoComponents(ctx context.Context, of store.History) error {
	if p.kind() != release.Base {
		return nil
	}
	histories, err := p.Store.Histories(ctx)
	if err != nil {
		return fmt.Errorf("read the histories: %w", err)
	}
	var built []string
	for _, named := range sortedNames(histories) {
		on, err := p.builtOn(ctx, named, histories[named])
		if err != nil {
			return err
		}
		if !on.IsZero() && slices.Contains(of.IDs(), on) {
			built = append(built, fmt.Sprintf("%q", named.Name))
		}
	}
	if len(built) == 0 {
		return nil
	}
	return fmt.Errorf("component %s is built on it: %w; destroy the component first",
		strings.Join(built, ", "), store.ErrInUse)
}

// builtOn returns the base release that the newest release of a component is built on; zero for a base, and if that is
// not known.
func (p *Publisher) builtOn(ctx context.Context, named store.Named, history store.History) (tree.Digest, error) {
	if named.Kind != release.Component || len(history.Releases) == 0 {
		return tree.Digest{}, nil
	}
	signed, err := p.Store.GetManifest(ctx, history.Releases[0].ID)
	if errors.Is(err, store.ErrNotFound) {
		return tree.Digest{}, nil
	}
	if err != nil {
		return tree.Digest{}, fmt.Errorf("read the newest release of component %q: %w", named.Name, err)
	}
	m, _, err := release.OpenUnsigned(signed)
	if err != nil {
		return tree.Digest{}, fmt.Errorf("read the newest release of component %q: %w", named.Name, err)
	}
	return m.BuiltOn, nil
}

func sortedIDs(inUse map[tree.Digest][]string) []tree.Digest {
	return slices.SortedFunc(maps.Keys(inUse), func(a, b tree.Digest) int { return slices.Compare(a[:], b[:]) })
}

// keepInUse adds to keep an object that VMs refer to, and what it refers to if it is a release. It may also be an
// initramfs, or a layer that is attached and not part of the VM's release.
func (p *Publisher) keepInUse(ctx context.Context, keep map[tree.Digest]bool, id tree.Digest,
	vms []string) (*release.Manifest, error) {
	keep[id] = true
	m, err := p.keepRelease(ctx, keep, id)
	if !errors.Is(err, store.ErrNotFound) {
		return m, err
	}
	_, err = p.Store.BlobPath(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		_, err = p.Store.LayerPath(ctx, id)
	}
	if err != nil {
		// The layers of an unknown release are unknown, so each layer may be one of them.
		return nil, fmt.Errorf(
			"VM %s refers to %s, which is not in the store, so it is unknown which layers the VM uses, and nothing is deleted (destroy that VM first): %w",
			strings.Join(vms, ", "), id, errors.Join(ErrDamagedStore, err))
	}
	return nil, nil
}

// keepRecorded adds to keep a release of a history and what it refers to. A release without a manifest cannot be used
// by a new VM, and keepInUse checks those that VMs use.
func (p *Publisher) keepRecorded(ctx context.Context, keep map[tree.Digest]bool, id tree.Digest) error {
	_, err := p.keepRelease(ctx, keep, id)
	if errors.Is(err, store.ErrNotFound) {
		p.log().Warn("a recorded release has no manifest", "release", id)
		return nil
	}
	return err
}

// keepRelease adds to keep a release of any operator, and all that it refers to.
func (p *Publisher) keepRelease(ctx context.Context, keep map[tree.Digest]bool,
	id tree.Digest) (*release.Manifest, error) {
	signed, err := p.Store.GetManifest(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", id, err)
	}
	m, _, err := release.OpenUnsigned(signed)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", id, err)
	}
	keep[id] = true
	for _, layer := range m.Layers {
		keep[layer.ID] = true
	}
	for _, blob := range blobFiles(m) {
		keep[blob.Digest] = true
	}
	return m, nil
}

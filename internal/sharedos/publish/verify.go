package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Verified is what Verify has found.
type Verified struct {
	// Objects is how many layers, kernels, modules, contents lists and manifests were read, and Bytes their size.
	Objects int
	Bytes   int64
	// Damaged, sorted by volume.
	Damaged []Damaged
}

// Damaged is an object that is missing from the store or has another content.
type Damaged struct {
	// Volume is the name of its volume.
	Volume string
	// Problem says what is wrong.
	Problem string
	// Releases that need it, as "debian-13 3".
	Releases []string
}

// Verify implements Interface.
func (p *Publisher) Verify(ctx context.Context, name string) (*Verified, error) {
	histories, err := p.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("verify what is stored: %w", err)
	}
	if name != "" {
		named := store.Named{Kind: p.kind(), Name: name}
		history, there := histories[named]
		if !there {
			return nil, fmt.Errorf("verify %s %q: %w", p.kind(), name, store.ErrNotFound)
		}
		histories = map[store.Named]store.History{named: history}
	}
	v := &verification{found: &Verified{}, seen: map[string]*Damaged{}}
	for _, named := range sortedNames(histories) {
		for i, id := range histories[named].IDs() {
			if err := p.verifyRelease(ctx, v, named.Name, len(histories[named].Releases)-i, id); err != nil {
				return nil, fmt.Errorf("verify release %s of %s %q: %w", id, named.Kind, named.Name, err)
			}
		}
	}
	for _, damaged := range v.seen {
		if damaged != nil {
			v.found.Damaged = append(v.found.Damaged, *damaged)
		}
	}
	slices.SortFunc(v.found.Damaged, func(a, b Damaged) int { return cmp.Compare(a.Volume, b.Volume) })
	return v.found, nil
}

// verification is what was read so far.
type verification struct {
	found *Verified
	// seen has every volume that was read; nil if it is as it should be.
	seen map[string]*Damaged
}

// read verifies one volume, once, and notes which release needs it.
func (v *verification) read(volume, of string, size int64, verify func() error) error {
	known, was := v.seen[volume]
	if !was {
		err := verify()
		v.found.Objects, v.found.Bytes = v.found.Objects+1, v.found.Bytes+size
		switch {
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt):
			known = &Damaged{Volume: volume, Problem: err.Error()}
		case err != nil:
			return err
		}
		v.seen[volume] = known
	}
	if known != nil && !slices.Contains(known.Releases, of) {
		known.Releases = append(known.Releases, of)
	}
	return nil
}

func (p *Publisher) verifyRelease(ctx context.Context, v *verification, name string,
	position int, id tree.Digest) error {
	of := fmt.Sprintf("%s %d", name, position)
	var m *release.Manifest
	err := v.read(store.ReleaseName(id), of, 0, func() error {
		signed, err := p.Store.GetManifest(ctx, id)
		if err != nil {
			return err
		}
		opened, got, err := release.OpenUnsigned(signed)
		if err != nil || got != id {
			return fmt.Errorf("it is not the manifest of release %s: %w", id, errors.Join(store.ErrCorrupt, err))
		}
		m = opened
		return nil
	})
	if err != nil || m == nil {
		return err
	}
	of = fmt.Sprintf("%s %d", name, m.Sequence)
	for _, layer := range m.Layers {
		if err := v.read(store.LayerName(layer.ID), of, layer.Size,
			func() error { return p.Store.VerifyLayer(ctx, layer) }); err != nil {
			return err
		}
	}
	for _, blob := range blobFiles(m) {
		if err := v.read(store.BlobName(blob.Digest), of, blob.Size,
			func() error { return p.Store.VerifyBlob(ctx, blob) }); err != nil {
			return err
		}
	}
	return nil
}

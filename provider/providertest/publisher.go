package providertest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// base is one base's history, newest first.
type base struct {
	ids       []tree.Digest
	manifests map[tree.Digest]*release.Manifest
}

type publisher struct{ *World }

var _ publish.Interface = publisher{}

// input tells what a source yields. Sources of the same input yield equal trees.
func (w *World) input(ctx context.Context, from source.Source) (text string, packages []release.Package, readable bool, err error) {
	debian, ok := from.(*source.Debian)
	if !ok {
		text, err = from.Fingerprint(ctx)
		return text, []release.Package{{Name: "base-files", Version: text}}, from.ReadableAtPlan(), err
	}
	wanted := slices.Sorted(slices.Values(debian.Packages))
	suites := "main"
	if debian.AdditionalSuites == nil || len(debian.AdditionalSuites) > 0 {
		suites = "patched"
	}
	for _, name := range wanted {
		packages = append(packages, release.Package{Name: name, Version: "1-" + suites})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	plain := []any{debian.Suite, suites, debian.Components, wanted, debian.Mirror, debian.Triggers, w.archive}
	written, err := json.Marshal(plain)
	return string(written), packages, false, err
}

func (p publisher) Prepare(ctx context.Context, spec publish.Spec, progress source.Progress) (*publish.Prepared, error) {
	if err := p.enter(ctx, "Prepare", spec.Name); err != nil {
		return nil, err
	}
	progress("building", 1, 2)
	if err := p.at(ctx, "Prepare", spec.Name, "building"); err != nil {
		return nil, err
	}
	return p.prepare(ctx, spec, true)
}

func (p publisher) PrepareCached(ctx context.Context, spec publish.Spec) (*publish.Prepared, error) {
	if err := p.enter(ctx, "PrepareCached", spec.Name); err != nil {
		return nil, err
	}
	return p.prepare(ctx, spec, false)
}

func (p publisher) prepare(ctx context.Context, spec publish.Spec, build bool) (*publish.Prepared, error) {
	input, packages, readable, err := p.input(ctx, spec.Source)
	if err != nil {
		return nil, fmt.Errorf("prepare base %q: %w", spec.Name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var previous *release.Manifest
	var previousID tree.Digest
	if known := p.bases[spec.Name]; known != nil {
		previousID = known.ids[0]
		previous = known.manifests[previousID]
	}
	key := spec.Name + "\n" + input + "\n" + previousID.String()
	if found := p.prepared[key]; found != nil {
		return found, nil
	}
	if !build && !readable {
		return nil, fmt.Errorf("prepare base %q: %w", spec.Name, publish.ErrNotCached)
	}
	made := &publish.Prepared{}
	if previous != nil && p.World.published[previousID.String()] == input {
		made.ID, made.Manifest, made.Unchanged = previousID, previous, true
	} else {
		manifest := next(spec.Name, input, packages, previous, previousID)
		encoded, err := manifest.Encode()
		if err != nil {
			return nil, fmt.Errorf("prepare base %q: %w", spec.Name, err)
		}
		made.Manifest, made.Signed, made.ID = manifest, encoded, release.ID(encoded)
		if previous != nil {
			made.Change = change(previous, manifest)
		}
		p.World.published[made.ID.String()] = input
	}
	p.prepared[key] = made
	return made, nil
}

// next is the manifest of the release that follows previous.
func next(name, input string, packages []release.Package, previous *release.Manifest, previousID tree.Digest) *release.Manifest {
	blob := func(what string) release.Blob {
		return release.Blob{Digest: tree.Sum([]byte(what + input)), Size: int64(len(what + input))}
	}
	layer := release.Layer{ID: tree.Sum([]byte("layer" + name + input + previousID.String())), DataSize: 256 << 20, Size: 258 << 20}
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: name, Sequence: 1, Architecture: "amd64", OS: "Test OS 13",
		Contents: blob("contents"), Packages: packages,
		Kernel: &release.Kernel{Release: "6.12." + tree.Sum([]byte(input)).Hex()[:4], Image: blob("kernel"), Modules: blob("modules")},
		Users:  map[string]uint32{"root": 0}, Groups: map[string]uint32{"root": 0},
	}
	if previous != nil {
		layer.Delta, layer.DataSize, layer.Size = true, 16<<20, 17<<20
		m.Previous, m.Sequence = previousID, previous.Sequence+1
		m.Layers = slices.Clone(previous.Layers)
	}
	m.Layers = append(m.Layers, layer)
	return m
}

// change compares the packages of two manifests.
func change(from, to *release.Manifest) *publish.Change {
	c := &publish.Change{
		Changed: 7, ChangedBytes: 15 << 20, DeltaBytes: to.Layers[len(to.Layers)-1].Size,
		KernelFrom: from.Kernel.Release, KernelTo: to.Kernel.Release,
	}
	versions := map[string]string{}
	for _, p := range from.Packages {
		versions[p.Name] = p.Version
	}
	for _, p := range to.Packages {
		if versions[p.Name] != p.Version {
			c.Packages = append(c.Packages, publish.PackageChange{Name: p.Name, From: versions[p.Name], To: p.Version})
		}
		delete(versions, p.Name)
	}
	for name, version := range versions {
		c.Packages = append(c.Packages, publish.PackageChange{Name: name, From: version})
	}
	return c
}

func (p publisher) Publish(ctx context.Context, prepared *publish.Prepared, progress source.Progress) error {
	name := prepared.Manifest.Name
	if err := p.enter(ctx, "Publish", name); err != nil {
		return err
	}
	progress("uploading", 1, 2)
	if err := p.at(ctx, "Publish", name, "uploading"); err != nil {
		return err
	}
	p.mu.Lock()
	known := p.bases[name]
	if known == nil {
		known = &base{manifests: map[tree.Digest]*release.Manifest{}}
	}
	newest := tree.Digest{}
	if len(known.ids) > 0 {
		newest = known.ids[0]
	}
	switch {
	case newest == prepared.ID:
	case newest != prepared.Manifest.Previous:
		p.mu.Unlock()
		return fmt.Errorf("publish base %q: somebody else published release %s meanwhile; plan again", name, newest)
	default:
		known.ids = slices.Insert(known.ids, 0, prepared.ID)
		known.manifests[prepared.ID] = prepared.Manifest
		p.bases[name] = known
	}
	p.mu.Unlock()
	return p.at(ctx, "Publish", name, "uploaded")
}

func (p publisher) Newest(ctx context.Context, name string) (tree.Digest, *release.Manifest, error) {
	if err := p.enter(ctx, "Newest", name); err != nil {
		return tree.Digest{}, nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.bases[name]
	if known == nil {
		return tree.Digest{}, nil, fmt.Errorf("base %q: %w", name, store.ErrNotFound)
	}
	return known.ids[0], known.manifests[known.ids[0]], nil
}

func (p publisher) Get(ctx context.Context, id tree.Digest) (*release.Manifest, error) {
	if err := p.enter(ctx, "Get", id.String()); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.manifest(id)
}

// manifest finds a published release. The lock is held.
func (w *World) manifest(id tree.Digest) (*release.Manifest, error) {
	for _, known := range w.bases {
		if found := known.manifests[id]; found != nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("release %s: %w", id, store.ErrNotFound)
}

func (p publisher) Delete(ctx context.Context, name string, ask publish.InUse) error {
	if err := p.enter(ctx, "Delete", name); err != nil {
		return err
	}
	inUse, err := ask(ctx)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := p.bases[name]
	if known == nil {
		return fmt.Errorf("base %q: %w", name, store.ErrNotFound)
	}
	for id := range known.manifests {
		if len(inUse[id]) > 0 {
			return fmt.Errorf("delete base %q: release %s: %w", name, id, store.ErrInUse)
		}
	}
	delete(p.bases, name)
	return nil
}

// Bases returns how many releases each base has.
func (w *World) Bases() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	counts := map[string]int{}
	for name, known := range w.bases {
		counts[name] = len(known.ids)
	}
	return counts
}

// DropBase makes a base vanish, as somebody does who deletes it by hand.
func (w *World) DropBase(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.bases, name)
}

package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Usage measures what a store holds, and what it would hold if nothing were shared. All sizes are allocated bytes.
type Usage struct {
	// Stored is the size of all volumes.
	Stored int64
	// Full is the size of every release of a base in full, and for each VM of its private disk and copies of its base
	// release and of its components.
	Full       int64
	Bases      []BaseUsage
	Components []ComponentUsage
	Releases   []ReleaseUsage
	VMs        []VMUsage
}

// BaseUsage measures the releases of a base.
type BaseUsage struct {
	Name     string
	Releases int
	// Stored is the size of all objects that its releases refer to, each counted once. Full is the size of each release
	// in full.
	Stored, Full int64
}

// ComponentUsage measures the releases of a component.
type ComponentUsage struct {
	Name     string
	Releases int
	// VMs is how many VMs refer to a release of it.
	VMs int
	// Stored is as in BaseUsage. Full is the size of its layers, once for each of these VMs.
	Stored, Full int64
}

// ReleaseUsage measures a release of a base.
type ReleaseUsage struct {
	ID       tree.Digest
	Base     string
	Sequence uint64
	// Stored is the size of all objects that it refers to. Own is the size of those that no other release refers to.
	Stored, Own int64
	// Full is the size of its files, each in whole blocks of 4096 bytes.
	Full int64
}

// VMUsage measures a VM.
type VMUsage struct {
	Name string
	// Release is the one that its definition names, or the newer one during a refresh; zero for a private disk without
	// a VM.
	Release tree.Digest
	// Stored is the size of its private disk. Full includes a copy of its release.
	Stored, Full int64
}

// Usage implements Interface.
func (p *Publisher) Usage(ctx context.Context, ask InUse) (*Usage, error) {
	usage, err := p.usage(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("measure the store: %w", err)
	}
	return usage, nil
}

func (p *Publisher) usage(ctx context.Context, ask InUse) (*Usage, error) {
	inUse, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	histories, err := p.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the histories: %w", err)
	}
	m := measure{usage: &Usage{}, allocated: map[tree.Digest]int64{}, disks: map[string]int64{},
		full: map[tree.Digest]int64{}}
	if err := m.volumes(ctx, p.Store); err != nil {
		return nil, fmt.Errorf("list its volumes: %w", err)
	}
	for named, listed := range histories {
		history, err := p.recorded(ctx, listed)
		if err != nil {
			return nil, err
		}
		history = slices.DeleteFunc(history, func(r Recorded) bool { return r.Manifest == nil })
		if named.Kind == release.Component {
			m.component(named.Name, history, inUse)
		}
		if named.Kind != release.Base {
			continue
		}
		for _, one := range history {
			if m.full[one.ID], err = p.fullSize(ctx, one.Manifest); err != nil {
				return nil, fmt.Errorf("measure release %s: %w", one.ID, err)
			}
		}
		m.base(named.Name, history)
	}
	m.own()
	m.vms(inUse)
	return m.usage, nil
}

// measure is a Usage that is being summed up.
type measure struct {
	usage *Usage
	// allocated has sizes by the digests of objects, disks by VMs, and full by releases.
	allocated map[tree.Digest]int64
	disks     map[string]int64
	full      map[tree.Digest]int64
	// parts are the objects that each release in usage refers to.
	parts [][]tree.Digest
}

// volumes adds the volumes of the store.
func (m *measure) volumes(ctx context.Context, from Store) error {
	objects, err := from.ListObjects(ctx)
	if err != nil {
		return err
	}
	heads, err := from.ListHeads(ctx)
	if err != nil {
		return err
	}
	disks, err := from.ListDisks(ctx)
	if err != nil {
		return err
	}
	for _, volume := range slices.Concat(objects, heads, disks) {
		m.usage.Stored += volume.Allocation
		name, _ := store.ParseVolumeName(volume.Name)
		switch name.Kind {
		case store.DiskVolume:
			m.disks[name.VM] = volume.Allocation
		case store.LayerVolume, store.BlobVolume, store.ReleaseVolume:
			m.allocated[name.Digest] += volume.Allocation
		}
	}
	return nil
}

// partsOf lists the objects that a release refers to, and its manifest.
func partsOf(one Recorded) []tree.Digest {
	parts := map[tree.Digest]bool{one.ID: true}
	for _, layer := range one.Manifest.Layers {
		parts[layer.ID] = true
	}
	for _, blob := range blobFiles(one.Manifest) {
		parts[blob.Digest] = true
	}
	return slices.Collect(maps.Keys(parts))
}

// base adds a base and its releases.
func (m *measure) base(name string, history []Recorded) {
	base := BaseUsage{Name: name, Releases: len(history)}
	counted := map[tree.Digest]bool{}
	for _, one := range history {
		of := ReleaseUsage{ID: one.ID, Base: name, Sequence: one.Manifest.Sequence, Full: m.full[one.ID]}
		parts := partsOf(one)
		for _, part := range parts {
			of.Stored += m.allocated[part]
			if !counted[part] {
				base.Stored += m.allocated[part]
			}
			counted[part] = true
		}
		base.Full += of.Full
		m.usage.Releases = append(m.usage.Releases, of)
		m.parts = append(m.parts, parts)
	}
	m.usage.Full += base.Full
	m.usage.Bases = append(m.usage.Bases, base)
}

// component adds a component.
func (m *measure) component(name string, history []Recorded, inUse map[tree.Digest][]string) {
	component := ComponentUsage{Name: name, Releases: len(history)}
	counted, vms := map[tree.Digest]bool{}, map[string]bool{}
	for _, one := range history {
		for _, part := range partsOf(one) {
			if !counted[part] {
				component.Stored += m.allocated[part]
			}
			counted[part] = true
		}
		for _, vm := range inUse[one.ID] {
			vms[vm] = true
			for _, layer := range one.Manifest.Layers {
				component.Full += m.allocated[layer.ID]
			}
		}
	}
	component.VMs = len(vms)
	m.usage.Full += component.Full
	m.usage.Components = append(m.usage.Components, component)
}

// own sets Own of each release, and sorts bases, components and releases.
func (m *measure) own() {
	users := map[tree.Digest]int{}
	for _, parts := range m.parts {
		for _, part := range parts {
			users[part]++
		}
	}
	for i, parts := range m.parts {
		for _, part := range parts {
			if users[part] == 1 {
				m.usage.Releases[i].Own += m.allocated[part]
			}
		}
	}
	slices.SortFunc(m.usage.Bases, func(a, b BaseUsage) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.usage.Components, func(a, b ComponentUsage) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(m.usage.Releases, func(a, b ReleaseUsage) int {
		return cmp.Or(cmp.Compare(a.Base, b.Base), cmp.Compare(b.Sequence, a.Sequence))
	})
}

// vms adds the VMs, and private disks without a VM.
func (m *measure) vms(inUse map[tree.Digest][]string) {
	of := map[string]ReleaseUsage{}
	for name := range m.disks {
		of[name] = ReleaseUsage{}
	}
	for _, release := range m.usage.Releases {
		for _, name := range inUse[release.ID] {
			if of[name].Sequence < release.Sequence {
				of[name] = release
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		vm := VMUsage{Name: name, Release: of[name].ID, Stored: m.disks[name]}
		vm.Full = vm.Stored + of[name].Full
		m.usage.Full += vm.Full
		m.usage.VMs = append(m.usage.VMs, vm)
	}
}

// block is the size of a file system's blocks in bytes.
const block = 4096

// fullSize sums up the sizes of the files of a release.
func (p *Publisher) fullSize(ctx context.Context, m *release.Manifest) (int64, error) {
	list, err := p.Store.GetBlob(ctx, m.Contents)
	if err != nil {
		return 0, fmt.Errorf("read its contents list: %w", err)
	}
	reader := release.NewContentsReader(bytes.NewReader(list))
	var sum int64
	for {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err != nil {
			return 0, fmt.Errorf("read its contents list: %w", err)
		}
		sum += (entry.Size + block - 1) / block * block
	}
}

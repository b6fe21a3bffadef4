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

// Usage tells what a pool holds, and what it would hold if nothing were shared. All are bytes that the pool has allocated.
type Usage struct {
	// Stored is what all volumes of the pool take.
	Stored int64
	// Full is what every release in full, and a copy of its release and its private disk for every VM, would take.
	Full     int64
	Bases    []BaseUsage
	Releases []ReleaseUsage
	VMs      []VMUsage
}

// BaseUsage tells what the releases of a base take.
type BaseUsage struct {
	Name     string
	Releases int
	// Stored counts what its releases refer to, each once; Full every release in full.
	Stored, Full int64
}

// ReleaseUsage tells what a release takes.
type ReleaseUsage struct {
	ID       tree.Digest
	Base     string
	Sequence uint64
	// Stored counts all that it refers to; Own is what of it no other release refers to, and goes with it.
	Stored, Own int64
	// Full is what its files take, each in whole blocks of 4096 bytes.
	Full int64
}

// VMUsage tells what a VM takes.
type VMUsage struct {
	Name string
	// Release that its definition names, or the newest of them while it is moved; unset for a private disk without a VM.
	Release tree.Digest
	// Stored is what its private disk takes; Full adds a copy of its release.
	Stored, Full int64
}

// Usage implements Interface.
func (p *Publisher) Usage(ctx context.Context, ask InUse) (*Usage, error) {
	usage, err := p.usage(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("measure what the pool holds: %w", err)
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
		return nil, fmt.Errorf("list what it holds: %w", err)
	}
	m := measure{usage: &Usage{}, allocated: map[tree.Digest]int64{}, disks: map[string]int64{}, full: map[tree.Digest]int64{}}
	if err := m.volumes(ctx, p.Store); err != nil {
		return nil, fmt.Errorf("list what it holds: %w", err)
	}
	for named, listed := range histories {
		if named.Kind != release.Base {
			continue
		}
		history, err := p.recorded(ctx, listed)
		if err != nil {
			return nil, err
		}
		history = slices.DeleteFunc(history, func(r Recorded) bool { return r.Manifest == nil })
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

// measure sums up.
type measure struct {
	usage *Usage
	// allocated bytes by what a volume holds; disks by VM; full sizes by release.
	allocated map[tree.Digest]int64
	disks     map[string]int64
	full      map[tree.Digest]int64
	// parts are what each release in usage refers to.
	parts [][]tree.Digest
}

// volumes adds what the volumes of the store take.
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

// partsOf lists all that a release refers to, and itself.
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

// own tells for every release what no other one refers to, and puts all in order.
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
	slices.SortFunc(m.usage.Releases, func(a, b ReleaseUsage) int {
		return cmp.Or(cmp.Compare(a.Base, b.Base), cmp.Compare(b.Sequence, a.Sequence))
	})
}

// vms adds the VMs, and private disks that belong to none.
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

// block is what file systems give files in, in bytes.
const block = 4096

// fullSize sums what the files of a release take.
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

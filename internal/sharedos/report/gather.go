package report

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Sources are what Gather reads.
type Sources struct {
	// Pool is the name of the storage pool. VMs of other pools are left out.
	Pool  string
	Store interface {
		ListObjects(ctx context.Context) ([]store.Volume, error)
		Histories(ctx context.Context) (map[store.Named]store.History, error)
		GetManifest(ctx context.Context, id tree.Digest) ([]byte, error)
	}
	Domains interface {
		Inventory(ctx context.Context) ([]hypervisor.Listed, error)
	}
	VMs interface {
		Read(ctx context.Context, name string) (*vm.VM, error)
		InUse(ctx context.Context) (map[tree.Digest][]string, error)
	}
	Publisher interface {
		Usage(ctx context.Context, inUse publish.InUse) (*publish.Usage, error)
	}
	// Progress is called at the beginning of each step, in words for the user. It may be nil.
	Progress func(step string)
}

func (s Sources) step(format string, args ...any) {
	if s.Progress != nil {
		s.Progress(fmt.Sprintf(format, args...))
	}
}

// asked is how many VMs are asked at the same time. A silent one takes up to 25 seconds.
const asked = 16

// Gather reads the pool and its VMs. An error means that there is nothing to report: libvirt or the pool cannot be
// read; it matches store.ErrNoPool if there is no pool. Everything else that cannot be read is in Report.Incomplete.
// When ctx ends while VMs are asked, those that were not asked yet are described by their definitions.
func Gather(ctx context.Context, from Sources) (*Report, error) {
	r := &Report{
		Format: Format, Made: time.Now().UTC().Truncate(time.Second), Pool: from.Pool,
		Layers: []Layer{}, Releases: []Release{}, VMs: []VM{}, Incomplete: []string{},
	}
	from.step("listing the VMs, and the layers and releases of the pool")
	listed, err := from.Domains.Inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the VMs: %w", err)
	}
	var domains []hypervisor.Domain
	for _, one := range listed {
		switch {
		case one.Damaged != nil: // of which pool it is, is in the record that cannot be read
			r.incomplete("VM %q: %v", one.Name, one.Damaged)
		case one.Metadata.Pool == from.Pool:
			domains = append(domains, one.Domain)
		}
	}
	slices.SortFunc(domains, func(a, b hypervisor.Domain) int { return cmp.Compare(a.Name, b.Name) })
	volumes, err := from.Store.ListObjects(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the layers in storage pool %q: %w", from.Pool, err)
	}
	known, err := r.addReleases(ctx, from)
	if err != nil {
		return nil, err
	}
	from.step("measuring what sharing saves, over %s", count(len(r.Releases), "release"))
	r.addSpace(ctx, from)
	from.step("asking %s; one that does not answer takes up to 25 seconds", count(len(domains), "VM"))
	found, failures := readAll(ctx, from, domains)
	for i, one := range found {
		if err := failures[i]; err != nil {
			r.incomplete("VM %q: %v", domains[i].Name, err)
		}
		r.VMs = append(r.VMs, known.describe(domains[i], one, failures[i]))
	}
	r.Layers = known.layers(volumes, domains, r.VMs)
	for i := range r.Releases {
		r.Releases[i].VMs = runs(r.VMs, r.Releases[i].Release)
	}
	return r, nil
}

func (r *Report) incomplete(format string, args ...any) {
	r.Incomplete = append(r.Incomplete, text(fmt.Sprintf(format, args...)))
}

// addSpace measures the pool. The report is of use without it.
func (r *Report) addSpace(ctx context.Context, from Sources) {
	usage, err := from.Publisher.Usage(ctx, from.VMs.InUse)
	if err != nil {
		r.incomplete("how much space is saved: %v", err)
		return
	}
	r.Space = Space{Known: true, Stored: usage.Stored, Full: usage.Full, Saved: usage.Full - usage.Stored}
}

// readAll reads the VMs, several at a time. The VM is nil where reading failed, with the reason in failures.
func readAll(ctx context.Context, from Sources, domains []hypervisor.Domain) (found []*vm.VM, failures []error) {
	found, failures = make([]*vm.VM, len(domains)), make([]error, len(domains))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(asked, len(domains)) {
		workers.Go(func() {
			for i := range next {
				found[i], failures[i] = from.VMs.Read(ctx, domains[i].Name)
			}
		})
	}
	for i := range domains {
		select {
		case next <- i:
		case <-ctx.Done():
			failures[i] = fmt.Errorf("it was not asked: %w", context.Cause(ctx))
		}
	}
	close(next)
	workers.Wait()
	return found, failures
}

// pool is what the histories of a pool list.
type pool struct {
	releases map[tree.Digest]*Release
	// newest are the newest releases by kind and name.
	newest map[store.Named]Ref
	// users are the releases that have a layer, oldest first, and sort is the place of a layer among all.
	users map[tree.Digest][]*Release
	delta map[tree.Digest]bool
}

// addReleases reads the manifests of all releases that the pool lists. Their signatures are not
// checked: nothing is run.
func (r *Report) addReleases(ctx context.Context, from Sources) (*pool, error) {
	histories, err := from.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the histories in storage pool %q: %w", from.Pool, err)
	}
	known := &pool{
		releases: map[tree.Digest]*Release{}, newest: map[store.Named]Ref{}, users: map[tree.Digest][]*Release{},
		delta: map[tree.Digest]bool{},
	}
	for named, history := range histories {
		for i, listed := range history.Releases {
			manifest, err := manifestOf(ctx, from, listed.ID)
			if err != nil {
				r.incomplete("release %s of %s %q: %v", listed.ID, named.Kind, named.Name, err)
				continue
			}
			one := Release{
				Ref: Ref{Kind: string(named.Kind), Name: text(named.Name), Sequence: manifest.Sequence,
					Release: listed.ID.String()},
				Newest: i == 0, Published: listed.Published, OS: text(manifest.OS), Layers: []string{}, VMs: []string{},
			}
			if manifest.Kernel != nil {
				one.Kernel = text(manifest.Kernel.Release)
			}
			for _, layer := range manifest.Layers {
				one.Layers = append(one.Layers, layer.ID.String())
				known.delta[layer.ID] = layer.Delta
			}
			if one.Newest {
				known.newest[named] = one.Ref
			}
			r.Releases = append(r.Releases, one)
		}
	}
	kinds := release.Kinds()
	slices.SortFunc(r.Releases, func(a, b Release) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, release.Kind(a.Kind)), slices.Index(kinds, release.Kind(b.Kind))),
			cmp.Compare(a.Name, b.Name), cmp.Compare(b.Sequence, a.Sequence), cmp.Compare(a.Release, b.Release))
	})
	for i := len(r.Releases) - 1; i >= 0; i-- {
		one := &r.Releases[i]
		id, err := tree.ParseDigest(one.Release)
		if err != nil {
			return nil, err
		}
		known.releases[id] = one
		for _, text := range one.Layers {
			layer, err := tree.ParseDigest(text)
			if err != nil {
				return nil, err
			}
			known.users[layer] = append(known.users[layer], one)
		}
	}
	for layer, users := range known.users { // a base brought a layer that its components have, too
		slices.SortStableFunc(users, func(a, b *Release) int {
			return cmp.Or(cmp.Compare(slices.Index(kinds, release.Kind(a.Kind)),
				slices.Index(kinds, release.Kind(b.Kind))),
				cmp.Compare(a.Name, b.Name), cmp.Compare(a.Sequence, b.Sequence))
		})
		known.users[layer] = users
	}
	return known, nil
}

func manifestOf(ctx context.Context, from Sources, id tree.Digest) (*release.Manifest, error) {
	signed, err := from.Store.GetManifest(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	manifest, got, err := release.OpenUnsigned(signed)
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	if got != id {
		return nil, errors.New("the volume of its manifest has that of another release")
	}
	return manifest, nil
}

// ref returns the reference to a release; one without a name if the pool does not list it.
func (p *pool) ref(id tree.Digest) Ref {
	if one := p.releases[id]; one != nil {
		return one.Ref
	}
	return Ref{Release: id.String()}
}

// layers describes the layers of the pool, and those that a release or a VM refers to and that the pool lacks.
func (p *pool) layers(volumes []store.Volume, domains []hypervisor.Domain, vms []VM) []Layer {
	all := map[tree.Digest]*Layer{}
	add := func(id tree.Digest) *Layer {
		if all[id] == nil {
			all[id] = &Layer{ID: id.String(), Kind: "unknown", Releases: len(p.users[id]),
				VMs: []string{}, HeldBy: []Hold{}}
			if users := p.users[id]; len(users) > 0 {
				all[id].Of, all[id].Kind = users[0].Ref, "full"
				if p.delta[id] {
					all[id].Kind = "delta"
				}
			}
		}
		return all[id]
	}
	for _, volume := range volumes {
		if name, ok := store.ParseVolumeName(volume.Name); ok && name.Kind == store.LayerVolume {
			one := add(name.Digest)
			one.InPool, one.Bytes = true, volume.Allocation
		}
	}
	for id := range p.users {
		add(id)
	}
	for i, domain := range domains {
		uses := map[tree.Digest]bool{}
		for _, layer := range domain.Layers {
			uses[layer.ID] = true
		}
		for _, layer := range domain.Metadata.Stack.Layers {
			uses[layer.ID] = true
		}
		for _, id := range domain.Metadata.Offer.LayerIDs() {
			uses[id] = true
		}
		for _, text := range vms[i].Layers {
			if id, err := tree.ParseDigest(text); err == nil {
				uses[id] = true
			}
		}
		for _, hold := range vms[i].Held {
			if id, err := tree.ParseDigest(hold.Layer); err == nil {
				delete(uses, id)
				one := add(id)
				one.HeldBy = append(one.HeldBy, hold)
			}
		}
		for id := range uses {
			one := add(id)
			one.VMs = append(one.VMs, vms[i].Name)
		}
	}
	kinds := release.Kinds()
	place := func(l *Layer) int { // layers without a release are last
		if at := slices.Index(kinds, release.Kind(l.Of.Kind)); at >= 0 {
			return at
		}
		return len(kinds)
	}
	sorted := slices.SortedFunc(maps.Values(all), func(a, b *Layer) int {
		return cmp.Or(cmp.Compare(place(a), place(b)), cmp.Compare(a.Of.Name, b.Of.Name),
			cmp.Compare(a.Of.Sequence, b.Of.Sequence),
			cmp.Compare(a.Kind, b.Kind)*-1,
			cmp.Compare(a.ID, b.ID)) // a full layer is below the deltas of the same release
	})
	layers := make([]Layer, len(sorted))
	for i, one := range sorted {
		if users := len(one.VMs); users > 1 {
			one.Saved = one.Bytes * int64(users-1)
		}
		layers[i] = *one
	}
	return layers
}

// runs names the VMs that run a release.
func runs(vms []VM, id string) []string {
	names := []string{}
	for _, one := range vms {
		if one.Base.Release == id || slices.ContainsFunc(one.Components, func(c Ref) bool { return c.Release == id }) {
			names = append(names, one.Name)
		}
	}
	return names
}

package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// StandIn returns the id of the release of a component's stand-in layer. If there is none yet, StandIn builds it into
// the cache: nothing in the store changes. Offer has it then, and PublishDerived stores it.
func (p *Publisher) StandIn(ctx context.Context, component tree.Digest, progress source.Progress) (tree.Digest, error) {
	m, _, err := p.manifestOf(ctx, component)
	if err != nil {
		return tree.Digest{}, err
	}
	if m.Kind != release.Component {
		return tree.Digest{}, fmt.Errorf("release %s is of %s %q: %w", component, m.Kind, m.Name, compose.ErrKind)
	}
	return p.derive(ctx, derivation{
		kind: release.StandIn, on: m.BuiltOn, from: []tree.Digest{component}, version: standin.Version,
		build: func(ctx context.Context, use func(*release.Manifest, *tree.Tree, []tree.Entry) error) error {
			return p.withTree(ctx, m.BuiltOn, func(base *release.Manifest, on *tree.Tree) error {
				return p.withTree(ctx, component, func(_ *release.Manifest, with *tree.Tree) error {
					made, err := standin.On(m.Name, standin.System{Tree: on, Users: base.Users, Groups: base.Groups},
						standin.System{Tree: with, Users: m.Users, Groups: m.Groups})
					if err != nil {
						return err
					}
					return use(&release.Manifest{
						Architecture: base.Architecture, OS: base.OS, Packages: base.Packages, Users: base.Users, Groups: base.Groups,
					}, made, on.Entries)
				})
			})
		},
	}, progress)
}

// offerVersion changes whenever the same stacks yield another offer than before.
const offerVersion = 1

// MakeOffer returns the id of the release of an offer of these stacks, all of which are on one base release. If there
// is none yet, MakeOffer builds it into the cache: nothing in the store changes. PublishDerived stores it. The order of
// the stacks does not matter.
func (p *Publisher) MakeOffer(ctx context.Context, base tree.Digest, stacks []compose.OfferedStack, progress source.Progress) (tree.Digest, error) {
	stacks = slices.Clone(stacks)
	slices.SortFunc(stacks, func(a, b compose.OfferedStack) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	var from []tree.Digest
	for _, one := range stacks {
		from = append(from, one.ID)
	}
	manifest, _, err := p.manifestOf(ctx, base)
	if err != nil {
		return tree.Digest{}, err
	}
	return p.derive(ctx, derivation{
		kind: release.Offer, on: base, from: from, version: offerVersion,
		build: func(_ context.Context, use func(*release.Manifest, *tree.Tree, []tree.Entry) error) error {
			made, err := offerTree(stacks)
			if err != nil {
				return err
			}
			return use(&release.Manifest{Architecture: manifest.Architecture, OS: manifest.OS}, made, nil)
		},
	}, progress)
}

// offerTree is the tree of an offer.
func offerTree(stacks []compose.OfferedStack) (*tree.Tree, error) {
	files := memory{}
	entries := []tree.Entry{
		{Path: tree.Root, Type: tree.Directory, Mode: 0o755},
		{Path: paths.OfferStacks, Type: tree.Directory, Mode: 0o755}, {Path: paths.OfferContents, Type: tree.Directory, Mode: 0o755},
	}
	add := func(path string, data []byte) {
		e := tree.Entry{Path: path, Type: tree.Regular, Mode: 0o644, Size: int64(len(data)), Digest: tree.Sum(data)}
		if !slices.ContainsFunc(entries, func(known tree.Entry) bool { return known.Path == path }) { // stacks may share a list
			entries = append(entries, e)
		}
		files[e.Digest] = data
	}
	for _, one := range stacks {
		add(paths.OfferStack(one.ID), one.Signed)
		add(paths.OfferList(one.Contents.Digest), one.List)
	}
	return tree.New(entries, files)
}

// memory are contents in memory.
type memory map[tree.Digest][]byte

// Open implements tree.Content.
func (m memory) Open(digest tree.Digest) (io.ReadCloser, error) {
	data, has := m[digest]
	if !has {
		return nil, fmt.Errorf("no file has content %s: %w", digest, os.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// derivation is how a release of one layer is made of others.
type derivation struct {
	kind release.Kind
	// on is the release of a base, from are the releases or stacks that it is made of, in an order that matters. version
	// changes if the same ones yield another one.
	on      tree.Digest
	from    []tree.Digest
	version int
	// build calls use with what the manifest says about the system, the whole tree, and the entries of what the layer
	// lies on: none for a full layer.
	build func(ctx context.Context, use func(system *release.Manifest, whole *tree.Tree, below []tree.Entry) error) error
}

// derive returns the id of a release that is made of others. It builds it into the cache if neither the store nor the cache
// has it. What is damaged is made again: it is the same release, and publishing it stores what is missing.
func (p *Publisher) derive(ctx context.Context, of derivation, progress source.Progress) (_ tree.Digest, err error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	d, name := p.of(of.kind), joiningName(of.on, of.from)
	fail := func(err error) (tree.Digest, error) {
		return tree.Digest{}, fmt.Errorf("make %s: %w", derivedText[of.kind], err)
	}
	stored, err := d.previous(ctx, name)
	if err != nil {
		return fail(err)
	}
	if stored != nil && stored.whole {
		return stored.id, nil
	}
	unlock, err := d.lockBase(ctx, name, progress)
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	spec, fingerprint := Spec{Name: name, BuiltOn: of.on}, fmt.Sprintf("%s:%d:%s", of.kind, of.version, name)
	key := d.key(spec, fingerprint, nil)
	entry, err := d.load(key)
	if errors.Is(err, errMiss) {
		entry, err = d.buildDerived(ctx, of, key, progress)
	}
	if err != nil {
		return fail(err)
	}
	prepared, err := d.prepared(entry, nil, spec, fingerprint)
	if err != nil {
		return fail(err)
	}
	return prepared.ID, nil
}

// buildDerived builds a derived release in the cache. The caller holds its lock.
func (p *Publisher) buildDerived(ctx context.Context, of derivation, key cacheKey, progress source.Progress) (made *cached, err error) {
	directory, err := p.begin(key.Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		// commit has renamed it.
		err = errors.Join(err, os.RemoveAll(directory))
	}()
	err = of.build(ctx, func(m *release.Manifest, whole *tree.Tree, below []tree.Entry) error {
		m.Schema, m.Kind, m.Name, m.Sequence, m.BuiltOn, m.Input = release.Schema, of.kind, key.Name, 1, of.on, key.Fingerprint
		b := &building{publisher: p, directory: directory, tree: whole, progress: progress}
		if m.Contents, err = b.contents(); err != nil {
			return err
		}
		entries := whole.Entries
		if below != nil {
			entries = layer.Delta(below, entries)
		}
		top, err := b.writeLayer(ctx, &tree.Tree{Entries: entries, Content: whole.Content})
		if err != nil {
			return err
		}
		top.Delta = below != nil
		m.Layers = []release.Layer{top}
		made, err = p.complete(directory, key, m, record{Layer: true})
		return err
	})
	return made, err
}

package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The joining layer of a stack has what its components write together: the package database, accounts, caches. What
// that is, the distribution's own tool says: apt installs the packages of all components at once in a copy of the base,
// and the joining layer is the difference between that tree and the components laid over each other. So the stack shows
// what apt makes, by construction.
//
// A joining layer is made once for each combination of releases. It is stored as a release of its own kind, whose name
// identifies the combination, and stays for as long as a VM has its layer attached.

// joiningName identifies a combination of releases.
func joiningName(base tree.Digest, components []tree.Digest) string {
	sum := tree.NewHasher()
	for _, id := range append([]tree.Digest{base}, components...) {
		_, _ = sum.Write(id[:]) // it never fails
	}
	return sum.Digest().Hex()[:40]
}

// isPackaged reports whether a component consists of packages, which write to the package database.
func isPackaged(m *release.Manifest) bool { return strings.HasPrefix(m.Input, "debian:") }

// Join returns the id of the joining layer's release for components on a base; zero if they need none, since at most
// one of them has packages. If there is none yet, Join builds it into the cache: nothing in the store changes. The
// error matches compose.ErrConflict if the components do not go together.
func (p *Publisher) Join(ctx context.Context, base tree.Digest, components []tree.Digest, progress source.Progress) (tree.Digest, error) {
	packaged := 0
	for _, id := range components {
		m, _, err := p.manifestOf(ctx, id)
		if err != nil {
			return tree.Digest{}, err
		}
		if isPackaged(m) {
			packaged++
		}
	}
	if packaged < 2 {
		return tree.Digest{}, nil
	}
	return p.derive(ctx, release.Joining, Spec{Name: joiningName(base, components), BuiltOn: base, joined: components}, progress)
}

// derive returns the id of a derived release. If the store does not have all of it, derive builds it into the cache.
func (p *Publisher) derive(ctx context.Context, kind release.Kind, spec Spec, progress source.Progress) (tree.Digest, error) {
	of := p.of(kind)
	stored, err := of.previous(ctx, spec.Name)
	if err != nil {
		return tree.Digest{}, fmt.Errorf("find %s: %w", derivedText[kind], err)
	}
	if stored != nil && stored.whole {
		_, err := p.Store.BlobPath(ctx, stored.manifest.Contents.Digest)
		if err == nil {
			return stored.id, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return tree.Digest{}, fmt.Errorf("find the contents list of %s %s: %w", derivedText[kind], stored.id, err)
		}
	}
	// What is damaged is made again: it is the same release, and publishing it stores what is missing.
	prepared, err := of.Prepare(ctx, spec, progress)
	if err != nil {
		return tree.Digest{}, err
	}
	return prepared.ID, nil
}

// PublishDerived stores what Join, StandIn or MakeOffer has made, unless the store has it. The caller holds a lock of
// the store.
func (p *Publisher) PublishDerived(ctx context.Context, id tree.Digest) error {
	found, ok := p.offered().Load(id)
	if !ok {
		return nil // it was found in the store
	}
	prepared, ok := found.(*Prepared)
	if !ok || !prepared.Manifest.Kind.Derived() {
		return nil
	}
	kind := prepared.Manifest.Kind
	if err := p.of(kind).publishLocked(ctx, prepared, func(string, int64, int64) {}); err != nil {
		return fmt.Errorf("store %s %s: %w", derivedText[kind], id, err)
	}
	return nil
}

// derivedText names the kinds of derived releases in errors.
var derivedText = map[release.Kind]string{
	release.Joining: "the joining layer", release.StandIn: "the stand-in layer", release.Offer: "the offer",
}

// derivedInUse returns the history of a derived release, without releases unless a VM has a layer of it attached.
func (p *Publisher) derivedInUse(ctx context.Context, history store.History, inUse map[tree.Digest]bool) (store.History, error) {
	for _, id := range history.IDs() {
		signed, err := p.Store.GetManifest(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return history, fmt.Errorf("read release %s: %w", id, err)
		}
		m, _, err := release.OpenUnsigned(signed)
		if err != nil {
			return history, fmt.Errorf("read release %s: %w", id, err)
		}
		if slices.ContainsFunc(m.Layers, func(l release.Layer) bool { return inUse[l.ID] }) {
			return history, nil
		}
	}
	return store.History{}, nil
}

// part is a component of a stack that is being joined.
type part struct {
	manifest *release.Manifest
	tree     *tree.Tree
}

// withParts calls use with the trees of the components.
func (p *Publisher) withParts(ctx context.Context, ids []tree.Digest, parts []part, use func([]part) error) error {
	if len(ids) == 0 {
		return use(parts)
	}
	return p.withTree(ctx, ids[0], func(m *release.Manifest, t *tree.Tree) error {
		return p.withParts(ctx, ids[1:], append(parts, part{m, t}), use)
	})
}

// withJoined calls use with the source of the base with the packages of all components.
func (p *Publisher) withJoined(ctx context.Context, spec Spec, use func(source.Source, *basis) error) error {
	return p.withTree(ctx, spec.BuiltOn, func(manifest *release.Manifest, t *tree.Tree) error {
		return p.withParts(ctx, spec.joined, nil, func(parts []part) error {
			joined := &debian.Joined{Base: source.Base{Name: manifest.Name, Tree: t}}
			for _, one := range parts {
				if isPackaged(one.manifest) {
					own := ofComponent(manifest, one.manifest.Users, one.manifest.Groups)
					joined.Parts = append(joined.Parts, debian.Part{
						Name: one.manifest.Name, Tree: one.tree, Users: numbersOf(own.Users), Groups: numbersOf(own.Groups),
					})
				}
			}
			return use(joined, &basis{id: spec.BuiltOn, manifest: manifest, tree: t, parts: parts})
		})
	})
}

func numbersOf(accounts map[string]uint32) map[uint32]bool {
	numbers := map[uint32]bool{}
	for _, number := range accounts {
		numbers[number] = true
	}
	return numbers
}

// buildJoining builds a joining layer in the cache. The caller holds its lock.
func (p *Publisher) buildJoining(ctx context.Context, spec Spec, from source.Source, on *basis, key cacheKey, progress source.Progress) (_ *cached, err error) {
	if err := on.checkParts(); err != nil {
		return nil, err
	}
	directory, err := p.begin(spec.Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		// commit has renamed it.
		err = errors.Join(err, os.RemoveAll(directory))
	}()
	read, err := rootfs.ReadAddition(ctx, from, on.tree, directory, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, read.Close()) }()
	if _, err := p.assign(ctx, on.manifest, read, progress); err != nil {
		return nil, err
	}
	whole, below, err := on.joined(read.Tree)
	if err != nil {
		return nil, err
	}
	read.Tree = whole
	if read.Users, read.Groups, err = rootfs.Accounts(whole); err != nil {
		return nil, err
	}
	b := &building{publisher: p, directory: directory, read: read, tree: whole, input: key.Fingerprint, progress: progress}
	manifest, err := b.describeComponent(spec.Name, on)
	if err != nil {
		return nil, err
	}
	manifest.Kind = release.Joining
	delta := layer.Delta(below, whole.Entries)
	top, err := b.writeLayer(ctx, &tree.Tree{Entries: delta, Content: whole.Content})
	if err != nil {
		return nil, err
	}
	top.Delta = true
	manifest.Layers = []release.Layer{top}
	return p.complete(directory, key, manifest, record{Layer: true})
}

// joined returns the tree of the whole stack, and what its layers show without the joining layer. made is the base with
// the packages of all components. To that come the files of components that are no packages', such as those that a user
// has given.
func (on *basis) joined(made *tree.Tree) (whole *tree.Tree, below []tree.Entry, _ error) {
	below = on.tree.Entries
	contents := contentsOf{made.Content}
	entries := slices.Clone(made.Entries)
	placed := map[string]int{}
	for i := range entries {
		placed[entries[i].Path] = i
	}
	for _, one := range on.parts {
		below = layer.Apply(below, layer.Delta(on.tree.Entries, one.tree.Entries))
		contents = append(contents, one.tree.Content)
		for _, e := range one.tree.Entries {
			if was, has := on.tree.Lookup(e.Path); has && tree.Equal(*was, e) {
				continue
			}
			at, has := placed[e.Path]
			switch {
			case !has:
				placed[e.Path] = len(entries)
				entries = append(entries, e)
			case !isPackaged(one.manifest):
				entries[at] = e
			}
		}
		if isPackaged(one.manifest) {
			continue
		}
		for _, e := range on.tree.Entries {
			if _, kept := one.tree.Lookup(e.Path); !kept {
				if at, has := placed[e.Path]; has {
					entries[at].Path = "" // removed by the component
				}
			}
		}
	}
	entries = slices.DeleteFunc(entries, func(e tree.Entry) bool { return e.Path == "" })
	whole, err := tree.New(entries, contents)
	if err != nil {
		return nil, nil, fmt.Errorf("join the components: %w", err)
	}
	return whole, below, nil
}

// contentsOf is what several trees contain.
type contentsOf []tree.Content

// Open implements tree.Content.
func (c contentsOf) Open(digest tree.Digest) (io.ReadCloser, error) {
	var failures []error
	for _, one := range c {
		file, err := one.Open(digest)
		if err == nil {
			return file, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// checkParts returns a compose.Conflict if two components have a package in different versions, or if one that is no
// packages' has a file that another has with other content: the joining layer settles only what packages write.
func (on *basis) checkParts() error {
	type maker struct {
		name  string
		makes string
	}
	versions := map[string]maker{}
	for _, one := range on.parts {
		for _, added := range packageChanges(on.manifest.Packages, one.manifest.Packages) {
			known, has := versions[added.Name]
			if has && known.makes != added.To {
				return &compose.Conflict{
					What: "package " + added.Name, First: known.name, Second: one.manifest.Name, FirstMakes: known.makes, SecondMakes: added.To,
				}
			}
			versions[added.Name] = maker{one.manifest.Name, added.To}
		}
	}
	type change struct {
		by    *release.Manifest
		entry *tree.Entry
	}
	changes := map[string]change{}
	for _, one := range on.parts {
		err := diffTrees(on.tree.Entries, one.tree.Entries, func(was, is *tree.Entry) error {
			at := pathOf(was, is)
			before, has := changes[at]
			if has && (!isPackaged(before.by) || !isPackaged(one.manifest)) && !compose.Same(before.entry, is) {
				return &compose.Conflict{
					What: "/" + at, First: before.by.Name, Second: one.manifest.Name,
					FirstMakes: compose.EntryText(before.entry), SecondMakes: compose.EntryText(is),
				}
			}
			changes[at] = change{one.manifest, is}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func pathOf(was, is *tree.Entry) string {
	if was != nil {
		return was.Path
	}
	return is.Path
}

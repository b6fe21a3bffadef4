package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

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

// joiningName identifies a combination of releases, with the preferences among them.
func joiningName(base tree.Digest, components []tree.Digest, prefer []release.Preference) string {
	sum := tree.NewHasher()
	for _, id := range append([]tree.Digest{base}, components...) {
		_, _ = sum.Write(id[:]) // it never fails
	}
	for _, one := range prefer {
		_, _ = fmt.Fprintf(sum, "%q %q\n", one.Path, one.Component)
	}
	return sum.Digest().Hex()[:40]
}

// preparing makes a derived release, or finds it in the cache.
type preparing func(*Publisher, Spec) (*Prepared, error)

// withBuild builds a release that is not in the cache.
func withBuild(ctx context.Context) preparing {
	return func(p *Publisher, spec Spec) (*Prepared, error) { return p.Prepare(ctx, spec, nil) }
}

// fromCache returns ErrNotCached for a release that is not in the cache.
func fromCache(ctx context.Context) preparing {
	return func(p *Publisher, spec Spec) (*Prepared, error) { return p.PrepareCached(ctx, spec) }
}

// Join returns the id of the joining layer's release for components on a base; zero if they need none, since at most
// one of them has packages and no preference settles anything. prefer are those that settle something. If there is no
// joining layer yet, Join builds it into the cache: nothing in the store changes. The error matches compose.ErrConflict
// if the components do not go together.
func (p *Publisher) Join(ctx context.Context, base tree.Digest, components []tree.Digest,
	prefer []release.Preference) (tree.Digest, error) {
	return p.join(ctx, base, components, prefer, withBuild(ctx))
}

// JoinCached is Join without building: ErrNotCached if there is no joining layer yet.
func (p *Publisher) JoinCached(ctx context.Context, base tree.Digest, components []tree.Digest,
	prefer []release.Preference) (tree.Digest, error) {
	return p.join(ctx, base, components, prefer, fromCache(ctx))
}

func (p *Publisher) join(ctx context.Context, base tree.Digest, components []tree.Digest, prefer []release.Preference,
	prepare preparing) (tree.Digest, error) {
	packaged := 0
	for _, id := range components {
		m, _, err := p.manifestOf(ctx, id)
		if err != nil {
			return tree.Digest{}, err
		}
		if compose.Packaged(m) {
			packaged++
		}
	}
	if packaged < 2 && len(prefer) == 0 {
		return tree.Digest{}, nil
	}
	return p.derive(ctx, release.Joining,
		Spec{Name: joiningName(base, components, prefer), BuiltOn: base, joined: components, prefer: prefer}, prepare)
}

// derive returns the id of a derived release. If the store does not have all of it, prepare has to make it.
func (p *Publisher) derive(ctx context.Context, kind release.Kind, spec Spec, prepare preparing) (tree.Digest, error) {
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
	prepared, err := prepare(of, spec)
	if err != nil {
		return tree.Digest{}, err
	}
	return prepared.ID, nil
}

// PublishDerived stores what Join, StandIn or MakeOffer has made, unless the store has it. The caller holds a lock of
// the store. The error matches store.ErrNotFound if the release was found in the store, and a collection has deleted it
// since.
func (p *Publisher) PublishDerived(ctx context.Context, id tree.Digest) error {
	found, ok := p.offered().Load(id)
	if !ok { // it was found in the store
		_, err := p.Store.GetManifest(ctx, id)
		return err
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
func (p *Publisher) derivedInUse(ctx context.Context, history store.History,
	inUse map[tree.Digest]bool) (store.History, error) {
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
				if compose.Packaged(one.manifest) {
					own := ofComponent(manifest, one.manifest.Users, one.manifest.Groups)
					joined.Parts = append(joined.Parts, debian.Part{
						Name: one.manifest.Name, Tree: one.tree, Users: numbersOf(own.Users),
						Groups: numbersOf(own.Groups),
					})
				}
			}
			return use(joined, &basis{id: spec.BuiltOn, manifest: manifest, tree: t, parts: parts, prefer: spec.prefer})
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
func (p *Publisher) buildJoining(ctx context.Context, spec Spec, from source.Source, on *basis, key cacheKey,
	progress source.Progress) (_ *cached, err error) {
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
	read, err := p.together(ctx, from, on, directory, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, read.Close()) }()
	whole, below, err := on.joined(read.Tree)
	if err != nil {
		return nil, err
	}
	read.Tree = whole
	if read.Users, read.Groups, err = rootfs.Accounts(whole); err != nil {
		return nil, err
	}
	b := &building{publisher: p, directory: directory, read: read, tree: whole,
		input: key.Fingerprint, progress: progress}
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

// together returns the base with the packages of all components. If only one component has packages, that is what it
// was built as; if none has, it is the base.
func (p *Publisher) together(ctx context.Context, from source.Source, on *basis, directory string,
	progress source.Progress) (_ *rootfs.System, err error) {
	manifest, whole, packaged := on.manifest, on.tree, 0
	for _, one := range on.parts {
		if compose.Packaged(one.manifest) {
			manifest, whole = one.manifest, one.tree
			packaged++
		}
	}
	if packaged < 2 {
		return &rootfs.System{Tree: whole, Architecture: manifest.Architecture, OS: manifest.OS,
			Packages: manifest.Packages}, nil
	}
	read, err := rootfs.ReadAddition(ctx, from, on.tree, directory, progress)
	if err != nil {
		return nil, err
	}
	if _, err := p.assign(ctx, on.manifest, read, progress); err != nil {
		return nil, errors.Join(err, read.Close())
	}
	return read, nil
}

// rivals returns what components make of the paths that they change, and these paths sorted.
func (on *basis) rivals() (map[string][]compose.Rival, []string) {
	all := map[string][]compose.Rival{}
	for _, one := range on.parts {
		_ = diffTrees(on.tree.Entries, one.tree.Entries,
			func(was, is *tree.Entry) error { // it returns only what this returns
				at := pathOf(was, is)
				all[at] = append(all[at], compose.Rival{Of: one.manifest, Entry: is})
				return nil
			})
	}
	return all, slices.SortedFunc(maps.Keys(all), tree.Compare)
}

// joined returns the tree of the whole stack, and what its layers show without the joining layer. made is the base
// with the packages of all components. To that come the files of components that are no packages', such as those that
// a user has given, and what the user prefers where components conflict. The data directories (rootfs.DataDirectories)
// are those of the components: packages initialise them anew each time they are installed, with other content.
func (on *basis) joined(made *tree.Tree) (whole *tree.Tree, below []tree.Entry, _ error) {
	below = on.tree.Entries
	contents := contentsOf{made.Content, on.tree.Content}
	for _, one := range on.parts {
		below = layer.Apply(below, layer.Delta(on.tree.Entries, one.tree.Entries))
		contents = append(contents, one.tree.Content)
	}
	all := make(map[string]tree.Entry, len(made.Entries))
	for _, e := range made.Entries {
		all[e.Path] = e
	}
	data, err := on.keepData(all, made)
	if err != nil {
		return nil, nil, err
	}
	rivals, changed := on.rivals()
	preferred := map[string]bool{}
	for _, at := range changed {
		winner, by, err := compose.Settle(at, rivals[at], on.prefer)
		if err != nil {
			return nil, nil, err
		}
		preferred[at] = by != nil
		var entry *tree.Entry
		switch _, has := all[at]; {
		case winner != compose.ByPackages:
			entry = rivals[at][winner].Entry
		case has, inAny(at, data):
			continue
		default: // such as data that only a component's own build has
			i := slices.IndexFunc(rivals[at],
				func(one compose.Rival) bool { return one.Entry != nil && compose.Packaged(one.Of) })
			if i < 0 {
				continue
			}
			entry = rivals[at][i].Entry
		}
		if entry == nil {
			delete(all, at)
		} else {
			all[at] = *entry
		}
	}
	entries, err := inDirectories(all, rivals, preferred)
	if err != nil {
		return nil, nil, err
	}
	if whole, err = tree.New(entries, contents); err != nil {
		return nil, nil, fmt.Errorf("join the components: %w", err)
	}
	return whole, below, nil
}

// keepData puts the data directories that the base or a component has initialised in the place of those of a joined
// tree, and returns them. Each is taken as a whole from one of them: the base, or the first component that has it.
func (on *basis) keepData(all map[string]tree.Entry, made *tree.Tree) (kept []string, _ error) {
	directories, err := rootfs.DataDirectories(made)
	if err != nil {
		return nil, fmt.Errorf("join the components: %w", err)
	}
	trees := []*tree.Tree{on.tree}
	for _, one := range on.parts {
		if compose.Packaged(one.manifest) {
			trees = append(trees, one.tree)
		}
	}
	for _, directory := range directories {
		within := func(e tree.Entry) bool { return e.Path == directory || inside(e.Path, directory) }
		from := slices.IndexFunc(trees, func(t *tree.Tree) bool {
			return slices.ContainsFunc(t.Entries,
				func(e tree.Entry) bool { return e.Type == tree.Regular && inside(e.Path, directory) })
		})
		if from < 0 {
			continue // only all packages together have it
		}
		kept = append(kept, directory)
		maps.DeleteFunc(all, func(_ string, e tree.Entry) bool { return within(e) })
		for _, e := range trees[from].Entries {
			if within(e) {
				all[e.Path] = e
			}
		}
	}
	return kept, nil
}

// inDirectories returns the entries that are in a directory. The others are below a path that one component has removed
// or replaced by a file: they go with it if the user prefers that component there, and are a conflict otherwise.
func inDirectories(all map[string]tree.Entry, rivals map[string][]compose.Rival,
	preferred map[string]bool) ([]tree.Entry, error) {
	var entries []tree.Entry
	for _, at := range slices.SortedFunc(maps.Keys(all), tree.Compare) {
		parent := tree.Parent(at)
		above, has := all[parent]
		if at == tree.Root || has && above.Type == tree.Directory {
			entries = append(entries, all[at])
			continue
		}
		for !has && parent != tree.Root {
			if _, known := rivals[parent]; known {
				break
			}
			parent = tree.Parent(parent)
			_, has = all[parent]
		}
		if !preferred[parent] {
			return nil, hidden(parent, at, rivals)
		}
		delete(all, at) // and with it what is below
		preferred[at] = true
	}
	return entries, nil
}

// hidden is the conflict about a path that is no directory although another component has something below it.
func hidden(parent, at string, rivals map[string][]compose.Rival) error {
	conflict := &compose.Conflict{What: "/" + parent, FirstMakes: "no directory", SecondMakes: "/" + at + " in it"}
	for _, one := range rivals[parent] {
		if one.Entry == nil || one.Entry.Type != tree.Directory {
			conflict.First, conflict.FirstMakes = one.Of.Name, compose.EntryText(one.Entry)
		}
	}
	for _, one := range rivals[at] {
		if one.Entry != nil {
			conflict.Second = one.Of.Name
		}
	}
	return conflict
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

// checkParts returns a compose.Conflict if two components have a package in different versions, or if they have
// different content at a path, and neither packages nor a preference settle that.
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
					What: "package " + added.Name, First: known.name, Second: one.manifest.Name,
					FirstMakes: known.makes, SecondMakes: added.To,
				}
			}
			versions[added.Name] = maker{one.manifest.Name, added.To}
		}
	}
	rivals, changed := on.rivals()
	for _, at := range changed {
		if _, _, err := compose.Settle(at, rivals[at], on.prefer); err != nil {
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

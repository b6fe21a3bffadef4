package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrBase means that what a component is to be built on is not a release of a base, or is not there.
	ErrBase = errors.New("a component is built on a release of a base")
	// ErrNothing means that a component adds nothing to its base.
	ErrNothing = errors.New("it adds nothing to its base")
)

// withSource calls use with the source that a spec says. For a component, that is the source of the whole tree, and
// base is not nil.
func (p *Publisher) withSource(ctx context.Context, spec Spec, use func(from source.Source, base *basis) error) error {
	if p.kind() == release.Base {
		if spec.Source == nil {
			return errors.New("it has no source")
		}
		return use(spec.Source, nil)
	}
	switch p.kind() {
	case release.Joining:
		return p.withJoined(ctx, spec, use)
	case release.StandIn, release.Offer:
		return p.withDerived(ctx, spec, use)
	}
	if spec.Addition == nil {
		return errors.New("it has no source")
	}
	err := p.withTree(ctx, spec.BuiltOn, func(manifest *release.Manifest, t *tree.Tree) error {
		if manifest.Kind != release.Base {
			return fmt.Errorf("%w: release %s is release %d of %s %q", ErrBase, spec.BuiltOn, manifest.Sequence,
				manifest.Kind, manifest.Name)
		}
		from, err := spec.Addition.On(ctx, source.Base{Name: manifest.Name, Tree: t})
		if err != nil {
			return err
		}
		return use(from, &basis{id: spec.BuiltOn, manifest: manifest, tree: t})
	})
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: there is no release %s: %w", ErrBase, spec.BuiltOn, err)
	}
	return err
}

// basis is the base release that a component is built on.
type basis struct {
	id       tree.Digest
	manifest *release.Manifest
	// tree is nil for stand-ins and offers.
	tree *tree.Tree
	// parts are the components that a joining layer joins.
	parts []part
	// prefer are the preferences that settle something among them.
	prefer []release.Preference
}

// buildComponent builds a release of a component in the cache. The caller holds the lock of the component.
func (p *Publisher) buildComponent(ctx context.Context, spec Spec, from source.Source, on *basis,
	before *previous, key cacheKey,
	progress source.Progress,
) (_ *cached, err error) {
	directory, err := p.begin(spec.Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		// commit has renamed it.
		err = errors.Join(err, os.RemoveAll(directory))
	}()
	read, err := rootfs.ReadAddition(ctx, from, on.tree, directory, progress, spec.SharedSecrets...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, read.Close()) }()
	// The entry in the cache is named after the fingerprint, so what was read must have it.
	switch now, err := from.Fingerprint(ctx); {
	case err != nil:
		return nil, fmt.Errorf("identify the source again: %w", err)
	case now != key.Fingerprint:
		return nil, fmt.Errorf("%w: plan and apply again when nothing writes to the source", ErrSourceChanged)
	}
	if len(read.Secrets) > 0 {
		progress(fmt.Sprintf("leaving out secrets that the build has made: %s",
			strings.Join(rootfs.SecretsText(read.Secrets), ", ")), 0, 0)
	}
	pinned, err := p.assign(ctx, on.manifest, read, progress)
	if err != nil {
		return nil, err
	}
	if err := layer.CheckTree(read.Tree.Entries); err != nil {
		return nil, err
	}
	b := &building{publisher: p, directory: directory, read: read, tree: read.Tree, before: before,
		input: key.Fingerprint, progress: progress}
	manifest, err := b.describeComponent(spec.Name, on)
	if err != nil {
		return nil, err
	}
	same := false
	if before != nil && before.manifest.BuiltOn == on.id && before.whole {
		if same, err = b.sameAddition(ctx, manifest); err != nil {
			return nil, err
		}
	}
	if same {
		unchanged := record{Unchanged: &before.id, Change: b.adds(on, before.manifest),
			Secrets: read.Secrets, Notes: read.Notes}
		if err := os.Remove(filepath.Join(directory, contentsFile)); err != nil {
			return nil, err
		}
		path, err := p.commit(directory, key, unchanged)
		return &cached{directory: path, record: unchanged, id: before.id}, err
	}
	if err := keepsPackages(on.manifest, manifest); err != nil {
		return nil, err
	}
	delta := layer.Delta(on.tree.Entries, b.tree.Entries)
	top, err := b.writeLayer(ctx, &tree.Tree{Entries: delta, Content: b.tree.Content})
	if err != nil {
		return nil, err
	}
	top.Delta = true
	manifest.Layers = []release.Layer{top}
	change := b.adds(on, manifest)
	if change.Added.Entries+change.Changed.Entries+change.Removed.Entries+change.VMOwned == 0 {
		return nil, fmt.Errorf("%w: base %q has all of it already", ErrNothing, on.manifest.Name)
	}
	change.Pinned = pinned
	r := record{Layer: true, Change: change, Secrets: read.Secrets, Notes: read.Notes}
	return p.complete(directory, key, manifest, r)
}

// describeComponent writes the contents list and returns the manifest without the layer.
func (b *building) describeComponent(name string, on *basis) (*release.Manifest, error) {
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Component, Name: name, Sequence: 1, BuiltOn: on.id,
		Architecture: on.manifest.Architecture, OS: on.manifest.OS, Packages: b.read.Packages,
		Users: b.read.Users, Groups: b.read.Groups, Needs: b.read.Needs, Input: b.input,
	}
	if b.before != nil {
		m.Sequence, m.Previous = b.before.manifest.Sequence+1, b.before.id
	}
	b.progress("listing contents", 0, 0)
	var err error
	m.Contents, err = b.contents()
	return m, err
}

// keepsPackages returns an error if a component has packages of its base in other versions, or lacks them: these would
// change with it under everything else that the VM runs.
func keepsPackages(base, component *release.Manifest) error {
	var others []string
	for _, one := range packageChanges(base.Packages, component.Packages) {
		switch {
		case one.From == "":
		case one.To == "":
			others = append(others, fmt.Sprintf("%s %s is missing", one.Name, one.From))
		default:
			others = append(others, fmt.Sprintf("%s is %s instead of %s", one.Name, one.To, one.From))
		}
	}
	if len(others) == 0 {
		return nil
	}
	return fmt.Errorf("it changes packages of base %q: %s: %w; change them in the base", base.Name,
		strings.Join(others, ", "), source.ErrRefused)
}

// sameAddition reports whether the component has what its previous release has, on the same release of the base. The
// data that packages make while they are built does not count (rootfs.DataDirectories): each build makes it anew, and a
// VM that has the component keeps its own.
func (b *building) sameAddition(ctx context.Context, m *release.Manifest) (bool, error) {
	if b.before.manifest.Contents == m.Contents {
		return true, nil
	}
	data, err := rootfs.DataDirectories(b.tree)
	if err != nil || len(data) == 0 {
		return false, err
	}
	list, err := b.previousContents(ctx)
	if err != nil || list == nil {
		return false, err
	}
	previous, err := readContents(list)
	if err != nil {
		return false, fmt.Errorf("read the contents list of release %s: %w", b.before.id, err)
	}
	rest := func(entries []tree.Entry) []tree.Entry {
		return slices.DeleteFunc(slices.Clone(entries), func(e tree.Entry) bool { return inAny(e.Path, data) })
	}
	return slices.EqualFunc(rest(previous), rest(b.tree.Entries), tree.Equal), nil
}

// adds describes what a component adds to its base.
func (b *building) adds(on *basis, m *release.Manifest) *Change {
	change := &Change{Packages: packageChanges(on.manifest.Packages, m.Packages)}
	if len(m.Layers) > 0 {
		change.LayerBytes = m.Layers[len(m.Layers)-1].Size
	}
	diffEntries(on.tree.Entries, b.tree.Entries, change)
	return change
}

// diffEntries counts what differs between two trees.
func diffEntries(old, new []tree.Entry, change *Change) {
	_ = diffTrees(old, new, func(was, is *tree.Entry) error { // it returns only what this returns
		change.count(was, is)
		return nil
	})
}

// diffTrees calls visit for each entry that differs between two trees; nil stands for an entry that is not there.
func diffTrees(old, new []tree.Entry, visit func(was, is *tree.Entry) error) error {
	for len(old) > 0 || len(new) > 0 {
		var was, is *tree.Entry
		switch {
		case len(new) == 0 || len(old) > 0 && tree.Compare(old[0].Path, new[0].Path) < 0:
			was, old = &old[0], old[1:]
		case len(old) == 0 || tree.Compare(new[0].Path, old[0].Path) < 0:
			is, new = &new[0], new[1:]
		default:
			was, is, old, new = &old[0], &new[0], old[1:], new[1:]
			if tree.Equal(*was, *is) {
				continue
			}
		}
		if err := visit(was, is); err != nil {
			return err
		}
	}
	return nil
}

package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// offerVersion changes whenever the same stacks yield another offer than before.
const offerVersion = 1

// maxOffered is how many stacks an offer can have.
const maxOffered = 1 << release.MaxOnDemand

// MakeOffer returns the id of the release of an offer of these stacks, all of which are of one base release. If there
// is none yet, MakeOffer builds it into the cache: nothing in the store changes. PublishDerived stores it. The order of
// the stacks does not matter. Package standin/paths has the form of the offer's only layer, which is a full one.
func (p *Publisher) MakeOffer(ctx context.Context, base tree.Digest,
	stacks []compose.OfferedStack) (tree.Digest, error) {
	return p.makeOffer(ctx, base, stacks, withBuild(ctx))
}

// MakeOfferCached is MakeOffer without building: ErrNotCached if there is no such offer yet.
func (p *Publisher) MakeOfferCached(ctx context.Context, base tree.Digest,
	stacks []compose.OfferedStack) (tree.Digest, error) {
	return p.makeOffer(ctx, base, stacks, fromCache(ctx))
}

func (p *Publisher) makeOffer(ctx context.Context, base tree.Digest, stacks []compose.OfferedStack,
	prepare preparing) (tree.Digest, error) {
	if len(stacks) == 0 || len(stacks) > maxOffered {
		return tree.Digest{}, fmt.Errorf("make an offer of %d stacks: it has 1 to %d", len(stacks), maxOffered)
	}
	stacks = slices.SortedFunc(slices.Values(stacks),
		func(a, b compose.OfferedStack) int { return slices.Compare(a.ID[:], b.ID[:]) })
	var of []tree.Digest
	for i, one := range stacks {
		if err := p.checkOffered(base, one); err != nil {
			return tree.Digest{}, fmt.Errorf("make an offer: stack %s: %w", one.ID, err)
		}
		if i > 0 && stacks[i-1].ID == one.ID {
			return tree.Digest{}, fmt.Errorf("make an offer: stack %s stands twice", one.ID)
		}
		// The signature is in the layer, too, so that another operator's offer of the same stacks is another one.
		of = append(of, tree.Sum(one.Signed))
	}
	return p.derive(ctx, release.Offer,
		Spec{Name: derivedName(offerVersion, of...), BuiltOn: base, stacks: stacks}, prepare)
}

// checkOffered returns an error unless a stack is what it says: a VM would only find out when it attaches a component.
func (p *Publisher) checkOffered(base tree.Digest, one compose.OfferedStack) error {
	trusted, err := p.trusted()
	if err != nil {
		return err
	}
	m, id, err := release.OpenStack(one.Signed, trusted)
	switch {
	case err != nil:
		return err
	case id != one.ID:
		return fmt.Errorf("the manifest is that of stack %s", id)
	case m.Base.ID != base:
		return fmt.Errorf("it is of base release %s, and the offer of %s", m.Base.ID, base)
	case m.Contents != one.Contents:
		return fmt.Errorf("the manifest names contents list %s, and not %s", m.Contents.Digest, one.Contents.Digest)
	case tree.Sum(one.List) != one.Contents.Digest || int64(len(one.List)) != one.Contents.Size:
		return fmt.Errorf("its contents list is not %s: %w", one.Contents.Digest, release.ErrContents)
	}
	return nil
}

// offerTree is the tree of an offer.
func offerTree(stacks []compose.OfferedStack) (*tree.Tree, error) {
	content := inMemory{}
	entries := map[string]tree.Entry{}
	for _, directory := range []string{tree.Root, paths.OfferStacks, paths.OfferContents} {
		entries[directory] = tree.Entry{Path: directory, Type: tree.Directory, Mode: 0o755}
	}
	add := func(at string, data []byte) {
		digest := tree.Sum(data)
		content[digest] = data
		entries[at] = tree.Entry{Path: at, Type: tree.Regular, Mode: 0o644, Size: int64(len(data)), Digest: digest}
	}
	for _, one := range stacks {
		add(paths.OfferStack(one.ID), one.Signed)
		add(paths.OfferList(one.Contents.Digest), one.List)
	}
	return tree.New(slices.Collect(maps.Values(entries)), content)
}

// inMemory is the content of a tree in memory.
type inMemory map[tree.Digest][]byte

// Open implements tree.Content.
func (m inMemory) Open(digest tree.Digest) (io.ReadCloser, error) {
	data, has := m[digest]
	if !has {
		return nil, fmt.Errorf("no content %s", digest)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// buildOffer builds an offer in the cache. The caller holds its lock.
func (p *Publisher) buildOffer(ctx context.Context, spec Spec, on *basis, key cacheKey,
	progress source.Progress) (_ *cached, err error) {
	made, err := offerTree(spec.stacks)
	if err != nil {
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
	b := &building{
		publisher: p, directory: directory, read: &rootfs.System{Tree: made}, tree: made,
		input: key.Fingerprint, progress: progress,
	}
	manifest, err := b.describeComponent(spec.Name, on)
	if err != nil {
		return nil, err
	}
	manifest.Kind = release.Offer
	only, err := b.writeLayer(ctx, made)
	if err != nil {
		return nil, err
	}
	manifest.Layers = []release.Layer{only}
	return p.complete(directory, key, manifest, record{Layer: true})
}

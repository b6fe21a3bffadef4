package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// derivedName is the name of a derived release: it identifies what the release is made of, and the version of the code
// that makes it.
func derivedName(version int, of ...tree.Digest) string {
	sum := tree.NewHasher()
	_, _ = fmt.Fprintf(sum, "version %d\n", version) // it never fails
	for _, digest := range of {
		_, _ = sum.Write(digest[:])
	}
	return sum.Digest().Hex()[:40]
}

// StandIn returns the id of the release of a component's stand-in layer. If there is none yet, StandIn builds it into
// the cache: nothing in the store changes. Offer has it then, and PublishDerived stores it. The error matches
// ErrComponent if the release is not of a component, and standin.ErrTaken if its base cannot have stand-ins.
func (p *Publisher) StandIn(ctx context.Context, component tree.Digest) (tree.Digest, error) {
	return p.standIn(ctx, component, withBuild(ctx))
}

// StandInCached is StandIn without building: ErrNotCached if there is no stand-in layer yet.
func (p *Publisher) StandInCached(ctx context.Context, component tree.Digest) (tree.Digest, error) {
	return p.standIn(ctx, component, fromCache(ctx))
}

func (p *Publisher) standIn(ctx context.Context, component tree.Digest, prepare preparing) (tree.Digest, error) {
	m, _, err := p.manifestOf(ctx, component)
	if err != nil {
		return tree.Digest{}, err
	}
	if m.Kind != release.Component {
		return tree.Digest{},
			fmt.Errorf("%w: release %s is release %d of %s %q", ErrComponent, component, m.Sequence, m.Kind, m.Name)
	}
	spec := Spec{Name: derivedName(standin.Version, component), BuiltOn: m.BuiltOn, standsFor: component}
	return p.derive(ctx, release.StandIn, spec, prepare)
}

// ErrComponent means that only a release of a component has stand-ins.
var ErrComponent = errors.New("only a component can be attached on demand")

// madeHere is the source of what is made of releases alone, so that nothing is read from it.
type madeHere struct{ of string }

// Fingerprint implements source.Source.
func (m madeHere) Fingerprint(context.Context) (string, error) { return m.of, nil }

// Open implements source.Source.
func (m madeHere) Open(context.Context, source.Progress) (io.ReadCloser, error) {
	return nil, fmt.Errorf("%s is no source that can be read", m.of)
}

// withDerived calls use with the source of stand-ins or an offer, and the base release that they are for. Trees are
// opened when something has to be built.
func (p *Publisher) withDerived(ctx context.Context, spec Spec, use func(source.Source, *basis) error) error {
	base, _, err := p.manifestOf(ctx, spec.BuiltOn)
	if err != nil {
		return err
	}
	if base.Kind != release.Base {
		return fmt.Errorf("%w: release %s is release %d of %s %q", ErrBase, spec.BuiltOn,
			base.Sequence, base.Kind, base.Name)
	}
	return use(madeHere{fmt.Sprintf("%s:%s", p.kind(), spec.Name)}, &basis{id: spec.BuiltOn, manifest: base})
}

// buildStandIn builds a stand-in layer in the cache. The caller holds its lock.
func (p *Publisher) buildStandIn(ctx context.Context, spec Spec, on *basis, key cacheKey,
	progress source.Progress) (*cached, error) {
	var built *cached
	err := p.withTree(ctx, on.id, func(base *release.Manifest, below *tree.Tree) error {
		return p.withTree(ctx, spec.standsFor, func(component *release.Manifest, whole *tree.Tree) (err error) {
			made, err := standin.On(component.Name, system(base, below), system(component, whole))
			if err != nil {
				return err
			}
			directory, err := p.begin(spec.Name)
			if err != nil {
				return err
			}
			defer func() {
				// commit has renamed it.
				err = errors.Join(err, os.RemoveAll(directory))
			}()
			// What the stack has in packages and accounts while the component is not attached is the base's.
			read := &rootfs.System{Tree: made, Packages: base.Packages, Users: base.Users, Groups: base.Groups}
			b := &building{publisher: p, directory: directory, read: read, tree: made,
				input: key.Fingerprint, progress: progress}
			manifest, err := b.describeComponent(spec.Name, on)
			if err != nil {
				return err
			}
			manifest.Kind = release.StandIn
			top, err := b.writeLayer(ctx,
				&tree.Tree{Entries: layer.Delta(below.Entries, made.Entries), Content: made.Content})
			if err != nil {
				return err
			}
			top.Delta = true
			manifest.Layers = []release.Layer{top}
			built, err = p.complete(directory, key, manifest, record{Layer: true})
			return err
		})
	})
	return built, err
}

func system(m *release.Manifest, t *tree.Tree) standin.System {
	return standin.System{Tree: t, Users: m.Users, Groups: m.Groups}
}

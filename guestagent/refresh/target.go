package refresh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrTarget means that this VM cannot move to the requested stack.
	ErrTarget = errors.New("not a target that this VM can move to")
	// ErrDowngrade means that the target is an earlier release than the running one.
	ErrDowngrade = errors.New(
		"the target is an earlier release than the one that runs, and a downgrade was not asked for")
	// ErrStale means that the caller compares with another stack than the running one.
	ErrStale = errors.New("the VM runs another stack than the caller compares with; plan again")
)

// side is one of the two stacks of a refresh, with its manifest.
type side struct {
	stack    release.Stack
	manifest *release.StackManifest
}

// openSide checks the signature of a stack manifest.
func openSide(signed []byte, operators []ed25519.PublicKey) (side, error) {
	if len(signed) == 0 {
		return side{}, fmt.Errorf("%w: it has no stack manifest", ErrTarget)
	}
	manifest, id, err := release.OpenStack(signed, operators)
	if err != nil {
		return side{}, err
	}
	return side{stack: manifest.Record(id), manifest: manifest}, nil
}

// target is a move from one stack to another that was checked.
type target struct{ from, to side }

// openTarget checks signatures, that the caller knows what runs, and the order of releases.
func openTarget(message *agentapi.Target, running release.Stack, operators []ed25519.PublicKey,
	downgrade bool) (*target, error) {
	to, err := openSide(message.GetTo(), operators)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	from, err := openSide(message.GetFrom(), operators)
	if err != nil {
		return nil, fmt.Errorf("current stack: %w", err)
	}
	if !from.stack.Same(running) {
		return nil, fmt.Errorf("%w: it runs stack %s of base %s, not %s of base %s", ErrStale, running.ID, running.Base,
			from.stack.ID, from.stack.Base)
	}
	now, next := from.manifest, to.manifest
	if next.Base.Name != now.Base.Name {
		return nil, fmt.Errorf("%w: it is of base %q, this VM runs %q", ErrTarget, next.Base.Name, now.Base.Name)
	}
	if next.Architecture != now.Architecture {
		return nil, fmt.Errorf("%w: it is for %s, this VM is %s", ErrTarget, next.Architecture, now.Architecture)
	}
	if downgrade {
		return &target{from, to}, nil
	}
	if err := inOrder("base", now.Base, next.Base); err != nil {
		return nil, err
	}
	for _, was := range now.Components {
		for _, is := range next.Components {
			if was.Name != is.Name {
				continue
			}
			if err := inOrder("component", was, is); err != nil {
				return nil, err
			}
		}
	}
	return &target{from, to}, nil
}

// inOrder checks that a release of a base or component is not earlier than the one that runs.
func inOrder(kind string, now, next release.Member) error {
	if next.Sequence < now.Sequence {
		return fmt.Errorf("%w: %s %q, release %d after %d", ErrDowngrade, kind, next.Name, next.Sequence, now.Sequence)
	}
	if next.Sequence == now.Sequence && next.ID != now.ID {
		return fmt.Errorf("%w: %s %q: two releases have the sequence %d", ErrTarget, kind, next.Name, now.Sequence)
	}
	return nil
}

// newLayers are the layers of to that from has not.
func newLayers(from, to release.Stack) []release.Layer {
	return slices.DeleteFunc(slices.Clone(to.Layers), func(l release.Layer) bool {
		return slices.ContainsFunc(from.Layers, func(o release.Layer) bool { return o.ID == l.ID })
	})
}

// differences is what two stacks differ in.
type differences struct {
	changes *impact.Changes
	// etc holds what differs below /etc and on the private disk (tree.OwnerOf).
	etc []etcmerge.Difference
}

// compare compares the contents lists that the host uploaded. Their bytes were checked then, and lie in memory since.
func (t *target) compare(ctx context.Context, blobs Blobs) (_ *differences, err error) {
	d := &differences{changes: impact.NewChanges()}
	was, is := t.from.manifest.Contents, t.to.manifest.Contents
	if was.Digest == is.Digest {
		return d, nil
	}
	var lists [2]io.Reader
	for i, blob := range []release.Blob{was, is} {
		file, openErr := blobs.Open(blob.Digest)
		if openErr != nil {
			return nil, fmt.Errorf("open contents list %s: %w", blob.Digest, openErr)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		lists[i] = file
	}
	err = release.DiffContents(lists[0], lists[1], func(name string, before, after *tree.Entry) error {
		d.changes.Add(name, before, after)
		if tree.OwnerOf(name) != tree.OwnedByOS {
			d.etc = append(d.etc, etcmerge.NewDifference(name, before, after))
		}
		return ctx.Err()
	})
	return d, err
}

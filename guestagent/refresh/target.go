package refresh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrTarget means that what was asked for cannot be moved to.
	ErrTarget = errors.New("not a target that this VM can move to")
	// ErrDowngrade means that the target is an earlier release than the running one.
	ErrDowngrade = errors.New("the target is an earlier release than the one that runs, and a downgrade was not asked for")
	// ErrStale means that the caller compares with another stack than the one that runs.
	ErrStale = errors.New("the VM runs another stack than the caller compares with; plan again")
)

// maxManifests bounds how many releases one stack is made of.
const maxManifests = 64

// side is one of the two stacks of a refresh, with the releases that it is made of.
type side struct {
	stack      release.Stack
	base       release.Identified
	components []release.Identified
}

// openSide checks the signatures and puts the stack together: the base first, then components.
func openSide(signed [][]byte, operators []ed25519.PublicKey) (side, error) {
	if len(signed) == 0 || len(signed) > maxManifests {
		return side{}, fmt.Errorf("%w: %d manifests", ErrTarget, len(signed))
	}
	var s side
	for i, note := range signed {
		manifest, id, err := release.Open(note, operators)
		if err != nil {
			return side{}, err
		}
		one := release.Identified{ID: id, Manifest: manifest}
		switch {
		case i == 0 && manifest.Kind == release.Base:
			s.base = one
		case i > 0 && manifest.Kind == release.Component:
			s.components = append(s.components, one)
		default:
			return side{}, fmt.Errorf("%w: manifest %d is of a %s: first stands one base, then components", ErrTarget, i, manifest.Kind)
		}
	}
	s.stack = release.StackOf(s.base.Manifest, s.base.ID, s.components...)
	return s, nil
}

// target is a move from one stack to another that was checked.
type target struct{ from, to side }

// openTarget checks signatures, that the caller knows what runs, and the order of releases.
func openTarget(message *agentapi.Target, running release.Stack, operators []ed25519.PublicKey, downgrade bool) (*target, error) {
	to, err := openSide(message.GetManifests(), operators)
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	from, err := openSide(message.GetCurrent(), operators)
	if err != nil {
		return nil, fmt.Errorf("current stack: %w", err)
	}
	if !SameStack(from.stack, running) {
		return nil, fmt.Errorf("%w: it runs base %s, not %s", ErrStale, running.Base, from.stack.Base)
	}
	if to.base.Manifest.Name != from.base.Manifest.Name {
		return nil, fmt.Errorf("%w: it is of base %q, this VM runs %q", ErrTarget, to.base.Manifest.Name, from.base.Manifest.Name)
	}
	if to.base.Manifest.Architecture != from.base.Manifest.Architecture {
		return nil, fmt.Errorf("%w: it is for %s, this VM is %s", ErrTarget, to.base.Manifest.Architecture, from.base.Manifest.Architecture)
	}
	if downgrade {
		return &target{from, to}, nil
	}
	for _, now := range append([]release.Identified{from.base}, from.components...) {
		for _, next := range append([]release.Identified{to.base}, to.components...) {
			same := now.Manifest.Kind == next.Manifest.Kind && now.Manifest.Name == next.Manifest.Name
			if same && next.Manifest.Sequence < now.Manifest.Sequence {
				return nil, fmt.Errorf("%w: %s %q, release %d after %d", ErrDowngrade, next.Manifest.Kind, next.Manifest.Name,
					next.Manifest.Sequence, now.Manifest.Sequence)
			}
			if same && next.Manifest.Sequence == now.Manifest.Sequence && next.ID != now.ID {
				return nil, fmt.Errorf("%w: %s %q: two releases have the sequence %d", ErrTarget, next.Manifest.Kind, next.Manifest.Name, now.Manifest.Sequence)
			}
		}
	}
	return &target{from, to}, nil
}

// SameStack reports whether two stacks are of the same releases.
func SameStack(a, b release.Stack) bool {
	return a.Base == b.Base && slices.Equal(a.Components, b.Components)
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
	// etc holds what differs below /etc and /var.
	etc []etcmerge.Difference
}

// pairs lists which contents lists are to be compared. The list of a component is of the whole tree on which it
// stands, so one that comes or goes is compared with its base.
func (t *target) pairs() [][2]release.Blob {
	pairs := [][2]release.Blob{{t.from.base.Manifest.Contents, t.to.base.Manifest.Contents}}
	find := func(in []release.Identified, name string) *release.Manifest {
		for _, one := range in {
			if one.Manifest.Name == name {
				return one.Manifest
			}
		}
		return nil
	}
	for _, next := range t.to.components {
		before := t.to.base.Manifest
		if now := find(t.from.components, next.Manifest.Name); now != nil {
			before = now
		}
		pairs = append(pairs, [2]release.Blob{before.Contents, next.Manifest.Contents})
	}
	for _, now := range t.from.components {
		if find(t.to.components, now.Manifest.Name) == nil {
			pairs = append(pairs, [2]release.Blob{now.Manifest.Contents, t.from.base.Manifest.Contents})
		}
	}
	return slices.DeleteFunc(pairs, func(p [2]release.Blob) bool { return p[0].Digest == p[1].Digest })
}

// compare reads the contents lists that the host handed over. Their bytes were checked then, and lie in memory since.
func (t *target) compare(ctx context.Context, blobs Blobs) (*differences, error) {
	d := &differences{changes: impact.NewChanges()}
	for _, pair := range t.pairs() {
		if err := d.add(ctx, blobs, pair); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *differences) add(ctx context.Context, blobs Blobs, pair [2]release.Blob) (err error) {
	var lists [2]io.Reader
	for i, blob := range pair {
		file, openErr := blobs.Open(blob.Digest)
		if openErr != nil {
			return fmt.Errorf("open contents list %s: %w", blob.Digest, openErr)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		lists[i] = file
	}
	return release.DiffContents(lists[0], lists[1], func(name string, before, after *tree.Entry) error {
		d.changes.Add(name, before, after)
		if strings.HasPrefix(name, "etc/") || strings.HasPrefix(name, "var/") {
			d.etc = append(d.etc, etcmerge.NewDifference(name, before, after))
		}
		return ctx.Err()
	})
}

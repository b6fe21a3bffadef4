package publish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func (p *Publisher) log() *slog.Logger {
	if p.Log != nil {
		return p.Log
	}
	return slog.New(slog.DiscardHandler)
}

// now is the time with the resolution of a history.
func (p *Publisher) now() time.Time {
	now := time.Now
	if p.Now != nil {
		now = p.Now
	}
	return now().UTC().Truncate(time.Second)
}

func (p *Publisher) maxChain() int {
	if p.MaxChain <= 0 {
		return DefaultMaxChain
	}
	return min(p.MaxChain, MostChain)
}

func (p *Publisher) maxDelta() int {
	if p.MaxDelta <= 0 {
		return DefaultMaxDelta
	}
	return min(p.MaxDelta, 100)
}

// Fingerprint implements Interface.
func (p *Publisher) Fingerprint(ctx context.Context, spec Spec) (string, error) {
	var fingerprint string
	err := p.withSource(ctx, spec, func(from source.Source, _ *basis) (err error) {
		fingerprint, err = from.Fingerprint(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("identify the source: %w", err)
	}
	return fingerprint, nil
}

// Inputs implements Interface.
func (p *Publisher) Inputs(ctx context.Context, spec Spec) (map[string]string, error) {
	var inputs map[string]string
	err := p.withSource(ctx, spec, func(from source.Source, _ *basis) (err error) {
		if described, ok := from.(interface {
			Inputs(ctx context.Context) (map[string]string, error)
		}); ok {
			inputs, err = described.Inputs(ctx)
		}
		return err
	})
	return inputs, err
}

// Prepare implements Interface.
func (p *Publisher) Prepare(ctx context.Context, spec Spec, progress source.Progress) (*Prepared, error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	var prepared *Prepared
	err := p.withSource(ctx, spec, func(from source.Source, on *basis) (err error) {
		prepared, err = p.prepare(ctx, spec, from, progress,
			func(ctx context.Context, previous *previous, key cacheKey) (*cached, error) {
				switch p.kind() {
				case release.Joining:
					return p.buildJoining(ctx, spec, from, on, key, progress)
				case release.StandIn:
					return p.buildStandIn(ctx, spec, on, key, progress)
				case release.Offer:
					return p.buildOffer(ctx, spec, on, key, progress)
				case release.Component:
					return p.buildComponent(ctx, spec, from, on, previous, key, progress)
				}
				return p.build(ctx, spec, previous, key, progress)
			})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prepare a release of %s %q: %w", p.kind(), spec.Name, err)
	}
	return prepared, nil
}

// PrepareCached implements Interface.
func (p *Publisher) PrepareCached(ctx context.Context, spec Spec) (*Prepared, error) {
	silent := func(string, int64, int64) {}
	var prepared *Prepared
	err := p.withSource(ctx, spec, func(from source.Source, _ *basis) (err error) {
		prepared, err = p.prepare(ctx, spec, from, silent, func(context.Context, *previous, cacheKey) (*cached, error) {
			return nil, ErrNotCached
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prepare a release of %s %q: %w", p.kind(), spec.Name, err)
	}
	return prepared, nil
}

// previous is the newest release of a base, which a build follows. It is nil if there is none.
type previous struct {
	id       tree.Digest
	manifest *release.Manifest
	// whole is false if the store lacks a layer of it, so that no delta can follow.
	whole bool
}

// prepare finds the release in the cache, or builds it. It locks the base meanwhile.
func (p *Publisher) prepare(ctx context.Context, spec Spec, from source.Source, progress source.Progress,
	build func(context.Context, *previous, cacheKey) (*cached, error),
) (_ *Prepared, err error) {
	if !release.ValidName(spec.Name) {
		return nil, fmt.Errorf(
			"%q cannot name a %s: use 1 to 63 lower case letters, digits and ._-, starting with a letter or digit",
			spec.Name, p.kind())
	}
	progress("reading the source's fingerprint", 0, 0)
	fingerprint, err := from.Fingerprint(ctx)
	if err != nil {
		return nil, fmt.Errorf("identify the source: %w", err)
	}
	unlock, err := p.lockBase(ctx, spec.Name, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	var before *previous
	if !p.kind().Derived() { // it has one release
		if before, err = p.previous(ctx, spec.Name); err != nil {
			return nil, err
		}
	}
	key := p.key(spec, fingerprint, before)
	entry, err := p.load(key)
	if err == nil && entry.needsLower(p.kind()) && (before == nil || !before.whole) {
		err = errMiss // the store lacks the layers below
	}
	if errors.Is(err, errMiss) {
		entry, err = build(ctx, before, key)
	}
	if err != nil {
		return nil, err
	}
	return p.prepared(entry, before, spec, fingerprint)
}

func (p *Publisher) lockBase(ctx context.Context, name string, progress source.Progress) (func() error, error) {
	return lock(ctx, p.baseDir(name)+".lock", func() {
		progress(fmt.Sprintf("waiting for another process that prepares %s %s", p.kind(), name), 0, 0)
	})
}

func (p *Publisher) key(spec Spec, fingerprint string, before *previous) cacheKey {
	key := cacheKey{
		Build: buildVersion, Name: spec.Name, Fingerprint: fingerprint,
		MaxChain: p.maxChain(), MaxDelta: p.maxDelta(), PinAccounts: spec.PinAccounts,
		SharedSecrets: spec.SharedSecrets,
		BuiltOn:       spec.BuiltOn,
	}
	if before != nil {
		key.Previous = before.id
	}
	return key
}

// previous returns the newest release of a base, nil if there is none.
func (p *Publisher) previous(ctx context.Context, name string) (*previous, error) {
	id, manifest, err := p.Newest(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if errors.Is(err, ErrDamagedStore) {
		return p.previousOfLost(ctx, name, err)
	}
	if err != nil {
		return nil, err
	}
	before := &previous{id: id, manifest: manifest, whole: true}
	for _, layer := range manifest.Layers {
		_, err := p.Store.LayerPath(ctx, layer.ID)
		if errors.Is(err, store.ErrNotFound) {
			p.log().Warn("the store lacks a layer of the newest release, so it is built again",
				"name", name, "layer", layer.ID)
			before.whole = false
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find layer %s of release %s: %w", layer.ID, id, err)
		}
	}
	return before, nil
}

// lostSequence is added to the number of releases of a base if the store has no manifest of any of them: the sequence
// of a release must not be lower than that of an earlier one, and nobody knows it any more.
const lostSequence = 1_000_000

// previousOfLost stands for the newest release of a base if its manifest is gone. The release that follows it
// is complete in itself. Its changes are counted against the newest release that can be read, if there is one.
func (p *Publisher) previousOfLost(ctx context.Context, name string, cause error) (*previous, error) {
	history, err := p.Store.History(ctx, p.kind(), name)
	if err != nil {
		return nil, fmt.Errorf("%w: find the releases of %s %q: %w", cause, p.kind(), name, err)
	}
	p.log().WarnContext(ctx, "the newest release is damaged, so that the next one is complete",
		"name", name, "error", cause)
	lost := &previous{id: history.Releases[0].ID, manifest: &release.Manifest{
		Kind: p.kind(), Name: name, Sequence: uint64(len(history.Releases)) + lostSequence,
	}}
	for i, listed := range history.Releases[1:] {
		manifest, err := p.Get(ctx, listed.ID)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, ErrDamagedStore) {
			continue
		}
		if err != nil {
			return nil, err
		}
		copied := *manifest
		copied.Sequence += uint64(i) + 1 //nolint:gosec // it counts releases
		lost.manifest = &copied
		break
	}
	return lost, nil
}

// prepared signs a release of the cache. The cache has no signatures, so that it can be used with any operator's key.
func (p *Publisher) prepared(entry *cached, before *previous, spec Spec, fingerprint string) (*Prepared, error) {
	manifest := entry.manifest
	unchanged := entry.record.Unchanged != nil
	if unchanged {
		if before == nil || before.id != entry.id {
			return nil, fmt.Errorf("the cache names release %s, which is not the newest one", entry.id)
		}
		manifest = before.manifest
	}
	if len(p.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("the operator key has %d bytes instead of %d", len(p.Key), ed25519.PrivateKeySize)
	}
	signed, id, err := release.Sign(manifest, p.Key)
	if err != nil {
		return nil, err
	}
	if id != entry.id {
		return nil, fmt.Errorf("the id of release %s is %s after signing", entry.id, id)
	}
	prepared := &Prepared{
		ID: id, Manifest: manifest, Signed: signed, Change: entry.record.Change, Secrets: entry.record.Secrets,
		Notes: entry.record.Notes, Unchanged: unchanged,
		layer: entry.record.Layer, spec: spec, Fingerprint: fingerprint,
	}
	if !unchanged {
		prepared.entry = entry.directory
	}
	return p.offer(prepared), nil
}

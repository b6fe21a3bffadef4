package publish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var _ Interface = (*Publisher)(nil)

// Newest implements Interface.
func (p *Publisher) Newest(ctx context.Context, name string) (tree.Digest, *release.Manifest, error) {
	history, err := p.Store.History(ctx, p.kind(), name)
	if err != nil {
		return tree.Digest{}, nil, fmt.Errorf("find the newest release of %s %q: %w", p.kind(), name, err)
	}
	if len(history.Releases) == 0 {
		return tree.Digest{}, nil, fmt.Errorf("find the newest release of %s %q: %w", p.kind(), name, store.ErrNotFound)
	}
	newest := history.Releases[0].ID
	manifest, err := p.Get(ctx, newest)
	if errors.Is(err, store.ErrNotFound) {
		// The base has a history, so the error must not match store.ErrNotFound.
		err = fmt.Errorf("its manifest is missing: %w; the next apply publishes it anew",
			ErrDamagedStore)
	}
	if err != nil {
		return tree.Digest{}, nil, fmt.Errorf("read the newest release of %s %q: %s: %w", p.kind(), name, newest, err)
	}
	if manifest.Kind != p.kind() || manifest.Name != name {
		return tree.Digest{}, nil, fmt.Errorf("read the newest release of %s %q: %s is %s %q: %w",
			p.kind(), name, newest, manifest.Kind, manifest.Name, ErrDamagedStore)
	}
	return newest, manifest, nil
}

// Get implements Interface.
func (p *Publisher) Get(ctx context.Context, id tree.Digest) (*release.Manifest, error) {
	signed, err := p.Store.GetManifest(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", id, err)
	}
	trusted, err := p.trusted()
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w", id, err)
	}
	manifest, got, err := release.Open(signed, trusted)
	if err != nil {
		return nil, fmt.Errorf("read release %s: %w; if another operator made it, use that operator's key", id, err)
	}
	if got != id {
		return nil, fmt.Errorf("read release %s: the manifest stored under its id is that of %s: %w",
			id, got, ErrDamagedStore)
	}
	return manifest, nil
}

// trusted returns the public keys of the operators whose releases are accepted.
func (p *Publisher) trusted() ([]ed25519.PublicKey, error) {
	if len(p.Key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("the operator key has %d bytes instead of %d", len(p.Key), ed25519.PrivateKeySize)
	}
	own, ok := p.Key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the operator key has no Ed25519 public key")
	}
	return append([]ed25519.PublicKey{own}, p.Trusted...), nil
}

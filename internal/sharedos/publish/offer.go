package publish

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Offer returns the signed manifest and the contents list of a release that this process prepared, whether it is
// published or not. So a plan can assess what the release would interrupt. store.ErrNotFound for any other release.
func (p *Publisher) Offer(_ context.Context, id tree.Digest) (signed, contents []byte, err error) {
	found, ok := p.offered().Load(id)
	if !ok {
		return nil, nil, fmt.Errorf("release %s was not prepared here: %w", id, store.ErrNotFound)
	}
	prepared, ok := found.(*Prepared)
	if !ok || prepared.entry == "" {
		return nil, nil, fmt.Errorf("release %s was not built here: %w", id, store.ErrNotFound)
	}
	path := filepath.Join(prepared.entry, contentsFile)
	if err := checkFile(path, prepared.Manifest.Contents); err != nil {
		return nil, nil, fmt.Errorf("read the contents list of release %s: %w", id, err)
	}
	if contents, err = os.ReadFile(path); err != nil {
		return nil, nil, fmt.Errorf("read the contents list of release %s: %w", id, err)
	}
	return prepared.Signed, contents, nil
}

// Offered implements Interface.
func (p *Publisher) Offered(id tree.Digest) *release.Manifest {
	found, _ := p.offered().Load(id)
	if prepared, ok := found.(*Prepared); ok {
		return prepared.Manifest
	}
	return nil
}

// offer remembers a prepared release for Offer.
func (p *Publisher) offer(prepared *Prepared) *Prepared {
	p.offered().Store(prepared.ID, prepared)
	return prepared
}

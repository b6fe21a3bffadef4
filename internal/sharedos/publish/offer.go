package publish

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Offer returns a release that this process prepared, in the store or not: its signed manifest and its contents
// list. With it a plan can ask what a release would interrupt before it is published. It returns
// store.ErrNotFound for any other release.
func (p *Publisher) Offer(_ context.Context, id tree.Digest) (signed, contents []byte, err error) {
	found, ok := p.offers.Load(id)
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

// offer remembers what was prepared, for Offer.
func (p *Publisher) offer(prepared *Prepared) *Prepared {
	p.offers.Store(prepared.ID, prepared)
	return prepared
}

package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Recorded is one release in the history of a base.
type Recorded struct {
	ID tree.Digest
	// Published is when it became the newest release, in whole seconds, UTC; zero if that is unknown.
	Published time.Time
	// Manifest as it is stored, with the signature of any operator; nil if the store does not have it.
	Manifest *release.Manifest
}

// Bytes is the size of all layers of the release.
func (r Recorded) Bytes() (sum int64) {
	if r.Manifest != nil {
		for _, layer := range r.Manifest.Layers {
			sum += layer.Size
		}
	}
	return sum
}

// History implements Interface.
func (p *Publisher) History(ctx context.Context, name string) ([]Recorded, error) {
	history, err := p.Store.History(ctx, p.kind(), name)
	if err != nil {
		return nil, fmt.Errorf("read the history of %s %q: %w", p.kind(), name, err)
	}
	return p.recorded(ctx, history)
}

// recorded reads the releases of a history without checking their signatures. It is for lists and measures; Get checks
// signatures.
func (p *Publisher) recorded(ctx context.Context, listed store.History) ([]Recorded, error) {
	history := make([]Recorded, 0, len(listed.Releases))
	for _, one := range listed.Releases {
		id, one := one.ID, Recorded{ID: one.ID, Published: one.Published}
		signed, err := p.Store.GetManifest(ctx, id)
		if err == nil {
			var got tree.Digest
			if one.Manifest, got, err = release.OpenUnsigned(signed); err == nil && got != id {
				err = fmt.Errorf("the manifest stored under its id is that of %s: %w", got, ErrDamagedStore)
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("read release %s: %w", id, err)
		}
		history = append(history, one)
	}
	return history, nil
}

// Added returns for each release of a history, newest first, the size in bytes of its layers that no earlier release
// has.
func Added(history []Recorded) []int64 {
	added := make([]int64, len(history))
	known := map[tree.Digest]bool{}
	for i := len(history) - 1; i >= 0; i-- {
		if history[i].Manifest == nil {
			continue
		}
		for _, layer := range history[i].Manifest.Layers {
			if !known[layer.ID] {
				added[i] += layer.Size
			}
			known[layer.ID] = true
		}
	}
	return added
}

// Names implements Interface.
func (p *Publisher) Names(ctx context.Context) ([]string, error) {
	histories, err := p.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the %ss: %w", p.kind(), err)
	}
	names := []string{}
	for named, history := range histories {
		if named.Kind == p.kind() && len(history.Releases) > 0 {
			names = append(names, named.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

package live

import (
	"context"
	"errors"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const loaderCacheLimit = time.Minute

// Etc implements refresh.Etc.
type Etc struct{}

// Carry implements refresh.Etc.
func (l Etc) Carry(ctx context.Context, ends etcmerge.Ends, differences []etcmerge.Difference, from, to []string) (outcome etcmerge.Outcome, err error) {
	if len(differences) == 0 {
		return etcmerge.Outcome{}, l.Undo(ctx)
	}
	old, err := mounts.BuildTree(from, ".")
	if err != nil {
		return etcmerge.Outcome{}, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	next, err := mounts.BuildTree(to, ".")
	if err != nil {
		return etcmerge.Outcome{}, err
	}
	defer func() { err = errors.Join(err, next.Close()) }()
	carrier := boot.Carrier("/")
	carrier.From, carrier.To = ends.From, ends.To
	return carrier.Carry(ctx, differences, old.Path(), next.Path())
}

// RenewLoaderCache implements refresh.Etc: with this VM's own libraries and the new release's.
func (Etc) RenewLoaderCache(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loaderCacheLimit)
	defer cancel()
	_, err := units.Run(ctx, "ldconfig")
	return err
}

// Undo implements refresh.Etc.
func (Etc) Undo(ctx context.Context) error { return boot.Carrier("/").Undo(ctx) }

// End implements refresh.Etc.
func (Etc) End(ctx context.Context, running release.Stack) error {
	return boot.EndCarry(ctx, "/", running)
}

// Layers implements refresh.Layers.
type Layers struct{}

// Open implements refresh.Layers.
func (Layers) Open(ctx context.Context, layer release.Layer) (string, error) {
	return mounts.OpenLayer(ctx, layer)
}

// Read implements refresh.Layers.
func (Layers) Read(ctx context.Context, layer release.Layer) error {
	return mounts.ReadLayer(ctx, layer)
}

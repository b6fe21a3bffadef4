package refresh

import (
	"context"
	"errors"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const loaderCacheLimit = time.Minute

// LiveEtc is the configuration of this system.
type LiveEtc struct{}

func (LiveEtc) carrier() etcmerge.Carrier {
	return etcmerge.Carrier{Root: "/", Record: mounts.StateDir + "/undo"}
}

// Carry implements Etc.
func (l LiveEtc) Carry(ctx context.Context, differences []etcmerge.Difference, from, to []string) (outcome etcmerge.Outcome, err error) {
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
	outcome, err = l.carrier().Carry(ctx, differences, old.Path(), next.Path())
	if err != nil || !outcome.LoaderCache {
		return outcome, err
	}
	// The cache was made here, so it is made again: with this VM's own libraries and the new release's.
	ctx, cancel := context.WithTimeout(ctx, loaderCacheLimit)
	defer cancel()
	if _, err := units.Run(ctx, "ldconfig"); err != nil {
		outcome.Conflicts = append(outcome.Conflicts, "/etc/ld.so.cache: "+err.Error())
	}
	return outcome, nil
}

// Undo implements Etc.
func (l LiveEtc) Undo(ctx context.Context) error { return l.carrier().Undo(ctx) }

// Settle implements Etc.
func (l LiveEtc) Settle() error { return l.carrier().Settle() }

// LiveLayers are the layers that the host plugged in.
type LiveLayers struct{}

// Open implements Layers.
func (LiveLayers) Open(ctx context.Context, layer release.Layer) (string, error) {
	return mounts.OpenLayer(ctx, layer)
}

// Read implements Layers.
func (LiveLayers) Read(ctx context.Context, layer release.Layer) error {
	return mounts.ReadLayer(ctx, layer)
}

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

const generateLimit = time.Minute

// Etc implements refresh.Etc.
type Etc struct{}

// Carry implements refresh.Etc.
func (l Etc) Carry(ctx context.Context, ends etcmerge.Ends, differences []etcmerge.Difference, from, to []string) (outcome etcmerge.Outcome, err error) {
	next, err := mounts.BuildTree(to, ".")
	if err != nil {
		return etcmerge.Outcome{}, err
	}
	defer func() { err = errors.Join(err, next.Close()) }()
	carrier := boot.Carrier("/")
	carrier.From, carrier.To = ends.From, ends.To
	if err := carrier.Undo(ctx); err != nil { // before the baseline is read, which belongs to what is in place then
		return etcmerge.Outcome{}, err
	}
	old, err := carrier.Baseline()
	if errors.Is(err, etcmerge.ErrBaseline) {
		old, err = listLayers(from, ends.From)
	}
	if err != nil {
		return etcmerge.Outcome{}, err
	}
	return carrier.CarryFrom(ctx, old, differences, next.Path())
}

// Accounts implements refresh.Etc.
func (Etc) Accounts() (etcmerge.AccountTexts, error) { return etcmerge.Accounts("/") }

// listLayers reads the baseline of the stack of these layers. Which release's files the VM has below /opt and /usr/local
// is not known then.
func listLayers(layers []string, stack string) (baseline *etcmerge.Baseline, err error) {
	mounted, err := mounts.BuildTree(layers, ".")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mounted.Close()) }()
	if baseline, err = etcmerge.ListTree(mounted.Path(), stack); err == nil {
		baseline.Partial = true
	}
	return baseline, err
}

// Room implements refresh.Etc.
func (Etc) Room(differences []etcmerge.Difference) error { return boot.Carrier("/").Room(differences) }

// Behind implements refresh.Etc.
func (Etc) Behind(running release.Stack) error { return boot.Behind(running) }

// Generate implements refresh.Etc.
func (Etc) Generate(ctx context.Context, names []string) (failures []etcmerge.Conflict) {
	for _, name := range names {
		generator := etcmerge.GeneratorNamed(name)
		if generator == nil { // an agent of another version journaled it
			continue
		}
		limited, cancel := context.WithTimeout(ctx, generateLimit)
		if _, err := units.Run(limited, generator.Command...); err != nil {
			failures = append(failures, generator.Failed(err))
		}
		cancel()
	}
	return failures
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

package live

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const generateLimit = time.Minute

// Etc implements refresh.Etc.
type Etc struct{}

// Carry implements refresh.Etc.
func (l Etc) Carry(ctx context.Context, ends etcmerge.Ends, differences []etcmerge.Difference, from, to []string,
	base int) (outcome etcmerge.Outcome, err error) {
	next, err := mounts.BuildTree(to, ".")
	if err != nil {
		return etcmerge.Outcome{}, err
	}
	defer func() { err = errors.Join(err, next.Close()) }()
	carrier := boot.Carrier("/")
	carrier.From, carrier.To = ends.From, ends.To
	if base < len(to) {
		below, err := mounts.BuildTree(to[:base], ".")
		if err != nil {
			return etcmerge.Outcome{}, err
		}
		defer func() { err = errors.Join(err, below.Close()) }()
		carrier.Base = below.Path()
	}
	if carrier.Keep, err = boot.Kept(); err != nil {
		return etcmerge.Outcome{}, err
	}
	if carrier.PurgeComponents, err = boot.Purges(); err != nil {
		return etcmerge.Outcome{}, err
	}
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
	if outcome, err = carrier.CarryFrom(ctx, old, differences, next.Path()); err != nil {
		return outcome, err
	}
	missing, err := missingSecrets("/", next.Path())
	outcome.Generate = append(outcome.Generate, missing...)
	return outcome, err
}

// The units that make secrets in each VM, instead of one that all share (rootfs.SecretUnits). A boot starts them.
const (
	secretUnitDirectory = "usr/lib/systemd/system"
	secretUnitPrefix    = "sharedos-secret-"
)

// missingSecrets returns the names of the units of the new stack that make secrets which the system at root lacks.
func missingSecrets(root, next string) (names []string, err error) {
	found, err := filepath.Glob(filepath.Join(next, secretUnitDirectory, secretUnitPrefix+"*.service"))
	if err != nil {
		return nil, fmt.Errorf("look for secrets to make: %w", err)
	}
	for _, unit := range found {
		text, err := fileio.Read(unit, 1<<20)
		if err != nil {
			return nil, fmt.Errorf("look for secrets to make: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			secret, is := strings.CutPrefix(strings.TrimSpace(line), "ConditionPathExists=!")
			if !is {
				continue
			}
			if _, err := os.Lstat(filepath.Join(root, secret)); errors.Is(err, fs.ErrNotExist) {
				names = append(names, filepath.Base(unit))
			}
		}
	}
	return names, nil
}

// Keep implements refresh.Etc.
func (Etc) Keep(patterns []string, purge bool) error {
	if err := etcmerge.CopyUp("/", patterns); err != nil {
		return err
	}
	return errors.Join(boot.WriteKept(patterns), boot.WritePurge(purge))
}

// Purge implements refresh.Etc.
func (Etc) Purge(ctx context.Context) (etcmerge.Purged, error) { return boot.Carrier("/").Purge(ctx) }

// Accounts implements refresh.Etc.
func (Etc) Accounts() (etcmerge.AccountTexts, error) { return etcmerge.Accounts("/") }

// listLayers reads the baseline of the stack of these layers. Which release's files the VM has
// below /opt and /usr/local is not known then.
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
		if strings.HasPrefix(name, secretUnitPrefix) {
			limited, cancel := context.WithTimeout(ctx, 2*generateLimit) // longer than the unit's own limit
			if _, err := units.Run(limited, "systemctl", "start", name); err != nil {
				failures = append(failures, etcmerge.Conflict{
					Path: path.Join(secretUnitDirectory, name), Kind: etcmerge.Generated,
					Reason: "a secret that each VM makes by itself was not made: " + err.Error(),
				})
			}
			cancel()
			continue
		}
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
func (Etc) Undo(ctx context.Context) (left []etcmerge.Conflict, err error) {
	carrier := boot.Carrier("/")
	carrier.Skipped = func(c etcmerge.Conflict) { left = append(left, c) }
	err = carrier.Undo(ctx)
	return left, err
}

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

// Check implements refresh.Layers.
func (Layers) Check(ctx context.Context, layer release.Layer) error {
	return CheckLayer(ctx, layer, RefreshCheck)
}

// Read implements refresh.Layers.
func (Layers) Read(ctx context.Context, layer release.Layer) error {
	return mounts.ReadLayer(ctx, layer)
}

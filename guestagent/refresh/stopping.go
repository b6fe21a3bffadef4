package refresh

import (
	"context"
	"fmt"
	"path"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// stopRemoved stops the units that the new stack does not have. That comes before the swap: as long as their files are
// there, systemd knows how they want to be stopped, and the programs for that exist.
func (r *run) stopRemoved(ctx context.Context) error {
	var names []string
	for _, p := range r.record.Planned {
		if p.Outcome == impact.Stopped {
			names = append(names, p.Unit)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return r.timed("stop", func() error {
		ordered, _, err := r.Units.Order(ctx, names, nil)
		if err != nil {
			return err
		}
		for _, name := range stopOrder(ordered) {
			if err := r.Units.Withdraw(ctx, name); err != nil {
				return fmt.Errorf("stop what is no part of the new stack: %w: %s", err, r.Units.Failure(ctx, name))
			}
		}
		return nil
	})
}

// stopOrder turns the order in which units start into the one in which they are stopped. What starts others comes
// first, so that nothing starts again.
func stopOrder(started []string) []string {
	ordered := slices.Clone(started)
	slices.Reverse(ordered)
	slices.SortStableFunc(ordered, func(a, b string) int { return stopRank(a) - stopRank(b) })
	return ordered
}

func stopRank(unit string) int {
	switch path.Ext(unit) {
	case ".socket", ".timer", ".path", ".automount":
		return 0
	case ".service":
		return 1
	default: // mounts are in use until then
		return 2
	}
}

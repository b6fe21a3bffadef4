package refresh

import (
	"context"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// keepingNetwork restarts a unit. If the unit manages the network, that is kept meanwhile, and not longer: other units that are
// restarted may change the network on purpose.
func (r *run) keepingNetwork(ctx context.Context, unit string, restart func() (time.Duration, error)) (time.Duration, error) {
	if impact.ManagesNetwork(unit) == impact.NoManager {
		return restart()
	}
	r.manager.Lock()
	defer r.manager.Unlock()
	r.keepNetwork(ctx, unit)
	away, err := restart()
	if err == nil { // otherwise the rollback restarts it again
		r.releaseNetwork(ctx, unit)
	}
	return away, err
}

// keepNetwork has the network kept if a unit manages it. A network that cannot be read delays no patch: it is reported.
func (r *run) keepNetwork(ctx context.Context, unit string) {
	manager := impact.ManagesNetwork(unit)
	if manager == impact.NoManager {
		return
	}
	sure := network.SureOfAll
	switch {
	case !r.diff.changes.Network():
	case manager == impact.MarkingManager:
		sure = network.SureOfUnmarked
	default:
		sure = network.SureOfNothing
	}
	if err := r.Network.Keep(ctx, sure); err != nil {
		r.warn("what was added to the network by hand is not kept", err)
	}
}

// releaseNetwork ends that once the manager has done its work, and reports what could not be kept. Nothing is done if
// nothing is kept. manager is the unit that was restarted, "" if it is not known.
func (r *run) releaseNetwork(ctx context.Context, manager string) {
	missing, err := r.Network.Release(ctx, manager)
	if err != nil && ctx.Err() == nil {
		r.warn("what was added to the network by hand may be missing", err)
	}
	r.note(func(report *agentapi.Report) {
		for _, line := range missing {
			line = "the network has lost " + line + "; add it again if it was added by hand, and to the configuration of the network for it to stay"
			if !slices.Contains(report.Pending, line) {
				report.Pending = append(report.Pending, line)
			}
		}
	})
}

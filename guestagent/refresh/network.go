package refresh

import (
	"context"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// keepingNetwork restarts a unit. If the unit manages the network, that is kept meanwhile, and not
// longer: other units that are restarted may change the network on purpose.
func (r *run) keepingNetwork(ctx context.Context, unit string,
	restart func() (time.Duration, error)) (time.Duration, error) {
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
	r.keep(ctx, manager == impact.MarkingManager)
}

// keep has the network kept. marks is true if its managers mark what is their own.
func (r *run) keep(ctx context.Context, marks bool) {
	sure := network.SureOfAll
	switch {
	case !r.diff.changes.Network():
	case marks:
		sure = network.SureOfUnmarked
	default:
		sure = network.SureOfNothing
	}
	if err := r.Network.Keep(ctx, sure); err != nil {
		r.warn("what was added to the network by hand is not kept", err)
	}
}

// keepNetworkOver has the network kept over a soft-reboot, which restarts its managers. The agent of the new userland
// goes on with it.
func (r *run) keepNetworkOver(ctx context.Context) {
	marks := false
	if r.before != nil { // otherwise another agent has assessed what runs
		marks = !slices.ContainsFunc(r.before.Names(),
			func(unit string) bool { return impact.ManagesNetwork(unit) == impact.PlainManager })
	}
	r.keep(ctx, marks)
}

// continueNetwork goes on with what was kept over a soft-reboot.
func (r *run) continueNetwork(ctx context.Context) (found bool) {
	found, err := r.Network.Continue(ctx)
	if err != nil {
		r.warn("what was added to the network by hand may be missing", err)
	}
	return found
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
			line = "the network has lost " + line +
				"; add it again if it was added by hand, and to the configuration of the network for it to stay"
			if !slices.Contains(report.Pending, line) {
				report.Pending = append(report.Pending, line)
			}
		}
	})
}

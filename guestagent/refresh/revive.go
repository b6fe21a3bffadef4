package refresh

import (
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// revived returns the units that a refresh starts again if they have failed by then. A refresh that
// may go back to an earlier release is to have the VM serve as before, and a unit that has failed
// uses no file by which an assessment would find it. These are the units that health checks name and,
// if the last refresh is taken back, those that it has renewed and that had not failed before it.
func revived(last Record, to release.Stack, request *agentapi.RefreshRequest) (units []string) {
	if !request.GetAllowDowngrade() {
		return nil
	}
	for _, check := range request.GetHealthChecks() {
		if unit := check.GetUnit(); unit != "" {
			units = append(units, unit)
		}
	}
	if last.From.Same(to) && last.To.Same(last.Running) {
		for _, p := range last.Planned {
			if p.Outcome.Interrupts() && !p.Outcome.Stops() && !slices.Contains(last.Failed, p.Unit) {
				units = append(units, p.Unit)
			}
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// restarted plans the restarts of units.
func restarted(units []string) (planned []Planned) {
	for _, unit := range units {
		planned = append(planned, Planned{Unit: unit, Outcome: impact.Restarted})
	}
	return planned
}

// revives reports whether the refresh starts a unit again that had failed before it.
func (r *run) revives(unit string) bool { return slices.Contains(r.record.Revive, unit) }

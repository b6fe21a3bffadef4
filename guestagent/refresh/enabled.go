package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// startEnabled starts the units that the new stack enables and that a package manager would have started: once systemd
// has read them and what they may need runs the new code.
//
// A unit that fails at its first start was not healthy before. So it is reported, and the refresh goes on, as it does
// after a soft-reboot, which starts such units, too. But a component is attached for its units: then the refresh is
// rolled back.
func (r *run) startEnabled(ctx context.Context, facts map[string]impact.Unit) error {
	wanted := r.record.NewlyEnabled
	var names []string
	for _, start := range wanted {
		if start.Skipped != "" {
			r.noteStart(&agentapi.UnitStart{Unit: start.Unit, WantedBy: start.By, Skipped: start.Skipped})
			continue
		}
		if r.started(start.Unit) {
			continue
		}
		running, why, err := r.Units.Startable(ctx, start.Unit, "/"+start.Path)
		switch {
		case err != nil:
			return fmt.Errorf("start what the release enables: %w", err)
		case why != "":
			r.noteStart(&agentapi.UnitStart{Unit: start.Unit, WantedBy: start.By, Skipped: why})
		case !running: // one that runs was started together with another unit
			names = append(names, start.Unit)
		}
	}
	if len(names) == 0 {
		return nil
	}
	names, _, err := r.Units.Order(ctx, names, facts)
	if err != nil {
		return err
	}
	if err := r.enter(r.record.State,
		func(record *Record) { record.Enabled = union(slices.Clone(record.Enabled), names) }); err != nil {
		return err
	}
	r.observed = nil // it may not stay so with these units
	for _, name := range names {
		if err := r.startUnit(ctx, name, wanted); err != nil {
			return err
		}
	}
	return nil
}

// makeSecrets starts the units that make secrets which the VM lacks, before the units that may need them are restarted.
func (r *run) makeSecrets(ctx context.Context) error {
	for _, name := range r.record.Generate {
		if !slices.ContainsFunc(r.record.NewlyEnabled,
			func(s impact.Start) bool { return s.Unit == name && s.Skipped == "" }) {
			r.generate(ctx, []string{name})
			continue
		}
		if err := r.startUnit(ctx, name, r.record.NewlyEnabled); err != nil {
			return err
		}
	}
	return nil
}

// started reports whether the refresh has started a unit already.
func (r *run) started(unit string) bool {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return slices.ContainsFunc(r.report.GetStarts(),
		func(s *agentapi.UnitStart) bool { return s.GetUnit() == unit && s.GetSkipped() == "" })
}

// ErrUnit means that a unit does not start that came with a component.
var ErrUnit = errors.New("a unit that comes with a component does not start")

// attaches reports whether the refresh attaches a component. One that is in another release than before was there.
func (r *run) attaches() (bool, error) {
	t := r.target
	if t == nil {
		var err error
		if t, err = openTarget(r.request.GetTarget(), r.record.From, r.Operators, true); err != nil {
			return false, err
		}
	}
	for _, is := range t.to.manifest.Components {
		if !slices.ContainsFunc(t.from.manifest.Components,
			func(was release.Member) bool { return was.Name == is.Name }) {
			return true, nil
		}
	}
	return false, nil
}

// unitFailed returns the error of a unit that has failed at its first start; nil if that is only reported.
func (r *run) unitFailed(failure string) error {
	attaches, err := r.attaches()
	if err != nil || !attaches {
		return err
	}
	return fmt.Errorf("%w: %s", ErrUnit, failure)
}

// startUnit starts one unit, and reports how that went. A failure of the unit is an error only if a component is
// attached.
func (r *run) startUnit(ctx context.Context, name string, wanted []impact.Start) error {
	start := &agentapi.UnitStart{Unit: name}
	if at := slices.IndexFunc(wanted, func(s impact.Start) bool { return s.Unit == name }); at >= 0 {
		start.WantedBy = wanted[at].By
	}
	took, skipped, err := r.Units.Start(ctx, name)
	if ended := ctx.Err(); ended != nil {
		return errors.Join(err, ended)
	}
	start.TookUs = took.Microseconds()
	switch {
	case err != nil:
		start.Error = fmt.Sprintf("%v: %s", err, r.Units.Failure(ctx, name))
	case skipped:
		start.Skipped = "a condition of it is not met"
	}
	r.noteStart(start)
	if start.GetError() == "" {
		return nil
	}
	return r.unitFailed(start.GetError())
}

func (r *run) noteStart(start *agentapi.UnitStart) {
	r.note(func(report *agentapi.Report) {
		report.Starts = slices.DeleteFunc(report.Starts,
			func(s *agentapi.UnitStart) bool { return s.GetUnit() == start.GetUnit() })
		report.Starts = append(report.Starts, start)
	})
}

// checkEnabled reports the started units that have failed by the end of the refresh.
func (r *run) checkEnabled(ctx context.Context) error {
	for _, name := range r.record.Enabled {
		state, err := r.Units.ActiveState(ctx, name)
		if err != nil {
			return err
		}
		if isRunning(state) || state == "inactive" || state == "activating" {
			continue
		}
		failure := r.Units.Failure(ctx, name)
		r.note(func(report *agentapi.Report) {
			for _, start := range report.GetStarts() {
				if start.GetUnit() == name && start.GetError() == "" {
					start.Error = failure
				}
			}
		})
		if err := r.unitFailed(failure); err != nil {
			return err
		}
	}
	return nil
}

// idleUnits returns the units that the new stack brings and that do not run.
func (r *run) idleUnits(ctx context.Context) (idle []string, _ error) {
	for _, name := range r.diff.changes.Brought() {
		state, err := r.Units.ActiveState(ctx, name)
		if err != nil {
			return nil, err
		}
		if state == "inactive" || state == "failed" {
			idle = append(idle, name)
		}
	}
	return idle, nil
}

// withdrawIdle stops what units of the refresh have started, such as a unit that one of them wants.
func (r *run) withdrawIdle(ctx context.Context) error {
	var failures []error
	for _, name := range stopOrder(r.record.Idle) {
		state, err := r.Units.ActiveState(ctx, name)
		if err == nil && (isRunning(state) || state == "activating") {
			err = r.retry(ctx, func() error { return r.Units.Withdraw(ctx, name) })
		}
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}

// withdrawEnabled stops what the refresh has started, for a rollback: while the files of these units are still there.
func (r *run) withdrawEnabled(ctx context.Context) error {
	var failures []error
	started := slices.Clone(r.record.Enabled)
	for _, p := range r.record.Planned {
		if p.Outcome == impact.TakenOver {
			started = append(started, p.Unit)
		}
	}
	for _, name := range slices.Backward(started) {
		failures = append(failures, r.retry(ctx, func() error { return r.Units.Withdraw(ctx, name) }))
	}
	return errors.Join(append(failures, r.withdrawIdle(ctx))...)
}

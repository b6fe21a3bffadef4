package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

const (
	// maxRounds is how often it is looked for what still uses the old /usr: what was started during the swap is
	// found in the second round.
	maxRounds = 4
	// pidOne is the unit of the manager itself.
	pidOne = "init.scope"
)

// renew restarts or reloads the planned units and what else is found to use an old file, until nothing new is
// found. What remains is reported. On the way back a unit that fails does not keep the others from being renewed.
func (r *run) renew(ctx context.Context, kernel string, planned []Planned, back bool) error {
	changes := r.diff.changes
	first, facts, err := r.assess(ctx, changes, kernel, true)
	if err != nil {
		return err
	}
	planned = plan(planned, first)
	if err := r.keepPlan(planned, back); err != nil {
		return err
	}
	if err := r.renewManager(ctx, changes, planned); err != nil {
		return err
	}
	done := map[string]bool{pidOne: true}
	var failures []error
	for range maxRounds {
		if err := r.renewUnits(ctx, planned, facts, done, back); err != nil {
			if !back {
				return err
			}
			failures = append(failures, err)
		}
		found, again, err := r.assess(ctx, changes, kernel, true)
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
		more := plan(planned, found)
		if len(more) == len(planned) {
			return errors.Join(append(failures, r.reportRest(ctx, found))...)
		}
		planned, facts = more, again
		if err := r.keepPlan(planned, back); err != nil {
			return errors.Join(append(failures, err)...)
		}
	}
	return errors.Join(append(failures, errors.New("services that use old files keep appearing"))...)
}

// keepPlan journals which units are about to be interrupted, so that going back finds them again. On the way back
// it need not: what still uses the wrong files is found by looking.
func (r *run) keepPlan(planned []Planned, back bool) error {
	if back {
		return nil
	}
	return r.enter(r.record.State, func(record *Record) { record.Planned = planned })
}

// renewManager has PID 1 take the new binary, the new units, accounts and temporary files.
func (r *run) renewManager(ctx context.Context, changes *impact.Changes, planned []Planned) error {
	if slices.ContainsFunc(planned, func(p Planned) bool { return p.Unit == pidOne }) {
		started := time.Now()
		if err := r.Units.Reexecute(ctx); err != nil {
			return err
		}
		r.noteRestart(&agentapi.UnitRestart{Unit: pidOne, Level: agentapi.Level_RELOAD}, "re-execute systemd", time.Since(started))
	} else if err := r.Units.Reload(ctx); err != nil {
		return err
	}
	if changes.Accounts() {
		if err := r.Units.ApplyAccounts(ctx); err != nil {
			r.warn("systemd-sysusers", err)
		}
	}
	if changes.Temporary() {
		if err := r.Units.ApplyTemporary(ctx); err != nil {
			r.warn("systemd-tmpfiles", err)
		}
	}
	return nil
}

// renewUnits does the planned units that were not done yet, in the order in which they are to be started. It ends
// with the first failure, unless all are to be tried.
func (r *run) renewUnits(ctx context.Context, planned []Planned, facts map[string]impact.Unit, done map[string]bool, all bool) error {
	byName := map[string]Planned{}
	var names []string
	for _, p := range planned {
		if !done[p.Unit] {
			byName[p.Unit] = p
			names = append(names, p.Unit)
		}
	}
	var failures []error
	for _, name := range units.Order(names, facts) {
		done[name] = true
		if err := r.renewUnit(ctx, byName[name]); err != nil {
			failures = append(failures, err)
			if !all {
				break
			}
		}
	}
	return errors.Join(failures...)
}

func (r *run) renewUnit(ctx context.Context, p Planned) error {
	restart := &agentapi.UnitRestart{Unit: p.Unit, Level: agentapi.Level_RESTART}
	started := time.Now()
	var err error
	if p.Reload {
		restart.Level = agentapi.Level_RELOAD
		err = r.Units.ReloadUnit(ctx, p.Unit)
	} else {
		var away time.Duration
		away, err = r.Units.Restart(ctx, p.Unit)
		restart.InterruptionUs = away.Microseconds()
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, r.Units.Failure(ctx, p.Unit))
		restart.Error = err.Error()
	}
	r.noteRestart(restart, "renew "+p.Unit, time.Since(started))
	return err
}

func (r *run) noteRestart(restart *agentapi.UnitRestart, step string, took time.Duration) {
	r.note(func(report *agentapi.Report) {
		report.Restarts = append(report.Restarts, restart)
		report.Timings = append(report.Timings, &agentapi.Timing{Step: step, Micros: took.Microseconds()})
	})
}

func (r *run) warn(what string, err error) {
	r.note(func(report *agentapi.Report) { report.Pending = append(report.Pending, what+": "+err.Error()) })
}

// reportRest tells what still uses old files, and why it was left.
func (r *run) reportRest(ctx context.Context, last *impact.Assessment) error {
	pinned, err := r.System.Pinned(ctx)
	if err != nil {
		return fmt.Errorf("audit the mount namespaces: %w", err)
	}
	remaining := slices.Clone(last.Remaining)
	for _, affected := range last.Affected {
		if affected.Kept == "" { // renewed, and some process of it lives on
			for _, pid := range affected.PIDs {
				remaining = append(remaining, fmt.Sprintf("%s %d %s", affected.Unit, pid, affected.Paths[0]))
			}
		}
	}
	r.note(func(report *agentapi.Report) {
		report.Pinned, report.Remaining = pinned, remaining
		for _, pending := range last.Pending {
			if !slices.Contains(report.Pending, pending) {
				report.Pending = append(report.Pending, pending)
			}
		}
	})
	return nil
}

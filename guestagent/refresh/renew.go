package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

const (
	// maxRounds bounds the searches for units that still use the old /usr. Units that were started during the swap are
	// found in the second round.
	maxRounds = 4
)

// renew restarts or reloads the planned units, and further units that are found to use an old file, until no new ones
// are found. What remains is reported. In a rollback (back) a unit that fails does not keep the others from being
// renewed.
func (r *run) renew(ctx context.Context, kernel string, planned []Planned, back bool) error {
	defer collectLess()()
	changes := r.diff.changes
	// The assessment before the swap is not enough: a unit that was started since, for example by a health check, may
	// be restarted together with a planned unit, and then has to be known.
	first, facts, err := r.assess(ctx, changes, kernel, r.request.GetPolicy(), planned, true)
	if err != nil {
		return err
	}
	if now := plan(planned, first); len(now) > len(planned) {
		planned = now
		if err := r.keepPlan(planned, back); err != nil {
			return err
		}
	}
	if err := r.renewManager(ctx, changes, planned); err != nil {
		return err
	}
	if !back {
		if err := r.makeSecrets(ctx); err != nil {
			return err
		}
	}
	renewal := renewal{run: r, back: back, done: map[string]bool{impact.ManagerUnit: true}, uses: usesOf(first)}
	if renewal.since, err = r.renewedFrom(back); err != nil {
		return err
	}
	var failures []error
	for range maxRounds {
		if err := renewal.units(ctx, planned, facts); err != nil {
			if !back {
				return err
			}
			failures = append(failures, err)
		}
		if !back && r.request.GetSettleMs() > 0 {
			r.observe(ctx)
		}
		found, again, err := r.assess(ctx, changes, kernel, r.request.GetPolicy(), planned, true)
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
		more := plan(planned, found)
		if len(more) == len(planned) {
			if !back {
				if err := r.startEnabled(ctx, again); err != nil {
					return err
				}
			}
			return errors.Join(append(failures, r.reportRest(ctx, found, back))...)
		}
		planned, facts, renewal.uses = more, again, usesOf(found)
		if err := r.keepPlan(planned, back); err != nil {
			return errors.Join(append(failures, err)...)
		}
	}
	return errors.Join(append(failures, errors.New("services that use old files keep appearing"))...)
}

// interrupted returns those of the planned units that the refresh has interrupted: a rollback restarts only them. Other
// units that use the wrong files are found by the assessment.
func (r *run) interrupted(ctx context.Context, planned []Planned) []Planned {
	var some []Planned
	for _, p := range planned {
		if p.Outcome == impact.TakenOver {
			continue // withdrawEnabled has stopped it: a stand-in that was started again would attach the component again
		}
		if p.Outcome == impact.Reloaded {
			some = append(some, p)
			continue
		}
		state, err := r.Units.ActiveState(ctx, p.Unit)
		restarted := false
		if err == nil && r.record.RenewedFrom != 0 && isRunning(state) {
			restarted, _, err = r.Units.Restarted(ctx, p.Unit, r.record.RenewedFrom)
		}
		if err != nil || restarted || !isRunning(state) {
			some = append(some, p)
		}
	}
	return some
}

// renewedFrom returns the moment from which on a unit that is started runs the right code entirely. It is journaled, so
// that the next agent restarts no unit twice. In a rollback it is the same for all tries.
func (r *run) renewedFrom(back bool) (uint64, error) {
	if back && r.restoredFrom != 0 {
		return r.restoredFrom, nil
	}
	if !back && r.record.RenewedFrom != 0 {
		return r.record.RenewedFrom, nil
	}
	now, err := r.System.Moment()
	if err != nil {
		return 0, err
	}
	if back {
		r.restoredFrom = now
		return now, nil
	}
	return now, r.enter(r.record.State, func(record *Record) { record.RenewedFrom = now })
}

// keepPlan journals which units are about to be interrupted, so that a rollback finds them. A rollback itself need not
// journal them: the assessment finds units that still use the wrong files.
func (r *run) keepPlan(planned []Planned, back bool) error {
	if back {
		return nil
	}
	return r.enter(r.record.State, func(record *Record) { record.Planned = planned })
}

// renewManager has PID 1 execute its new binary, and applies new unit files, accounts and temporary files.
func (r *run) renewManager(ctx context.Context, changes *impact.Changes, planned []Planned) error {
	if slices.ContainsFunc(planned, func(p Planned) bool { return p.Unit == impact.ManagerUnit }) {
		started := time.Now()
		if err := r.Units.Reexecute(ctx); err != nil {
			return err
		}
		r.noteRestart(&agentapi.UnitRestart{Unit: impact.ManagerUnit, Level: agentapi.Level_RELOAD},
			agentapi.RenewalOf(impact.ManagerUnit), time.Since(started))
	} else if stale, err := r.managerIsStale(changes); err != nil {
		return err
	} else if stale {
		if err := r.timed(agentapi.RenewalOf(impact.ManagerUnit),
			func() error { return r.Units.Reload(ctx) }); err != nil {
			return err
		}
	}
	if files := changes.Accounts(); len(files) > 0 {
		if err := r.Units.ApplyAccounts(ctx, files); err != nil {
			r.warn("systemd-sysusers", err)
		}
	}
	if files := changes.Temporary(); len(files) > 0 {
		if err := r.Units.ApplyTemporary(ctx, files); err != nil {
			r.warn("systemd-tmpfiles", err)
		}
	}
	return nil
}

// managerIsStale reports whether systemd has to read all units again, which takes a second in a small VM.
func (r *run) managerIsStale(changes *impact.Changes) (bool, error) {
	if changes.Manager() || !changes.Configuration() {
		return changes.Manager(), nil
	}
	// A generator of another program may read any file below /etc.
	return r.System.ForeignGenerators()
}

// renewal is one pass over units.
type renewal struct {
	*run
	back bool
	// since is the moment from which on a unit that was started needs no further restart.
	since uint64
	done  map[string]bool
	// uses are, by unit, the first of the differing paths that it uses.
	uses map[string][]string
}

func usesOf(a *impact.Assessment) map[string][]string {
	uses := make(map[string][]string, len(a.Affected))
	for _, affected := range a.Affected {
		uses[affected.Unit] = affected.Paths
	}
	return uses
}

// units renews the planned units that were not renewed yet, in their order, AtOnce at the same time. After the first
// failure it starts no other one, unless this is a rollback.
func (r renewal) units(ctx context.Context, planned []Planned, facts map[string]impact.Unit) error {
	byName := map[string]Planned{}
	var names []string
	for _, p := range planned {
		if !r.done[p.Unit] {
			byName[p.Unit] = p
			names = append(names, p.Unit)
		}
	}
	names, after, err := r.Units.Order(ctx, names, facts)
	if err != nil {
		return err
	}
	for _, p := range byName {
		if p.Outcome.Along() { // it goes down with another unit
			r.keepNetwork(ctx, p.Unit)
		}
	}
	begins := func(name string) { r.done[name] = true }
	return inTurn(names, after, r.AtOnce, r.back, begins, func(name string) error { return r.unit(ctx, byName[name]) })
}

func (r renewal) unit(ctx context.Context, p Planned) error {
	restart := &agentapi.UnitRestart{Unit: p.Unit, Level: p.Outcome.Level()}
	started := time.Now()
	unlimited := ctx
	if limit := r.request.GetRestartTimeoutMs(); limit > 0 && !r.back { // a rollback has no time limit for a unit
		limited, cancel := context.WithTimeout(ctx, time.Duration(limit)*time.Millisecond)
		defer cancel()
		ctx = limited
	}
	var err error
	if p.Outcome == impact.Reloaded {
		err = r.Units.ReloadUnit(ctx, p.Unit)
	} else {
		var away time.Duration
		away, err = r.keepingNetwork(unlimited, p.Unit, func() (time.Duration, error) { return r.restart(ctx, p) })
		restart.InterruptionUs = away.Microseconds()
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, r.Units.Failure(unlimited, p.Unit))
		restart.Error = err.Error()
	}
	r.noteRestart(restart, agentapi.RenewalOf(p.Unit), time.Since(started))
	if !r.back && r.revives(p.Unit) {
		return nil // it had failed before: it is reported, and does not keep the VM on the stack with which it failed
	}
	return err
}

// errStopping means that a unit does not stop when it has to. systemd starts it again once it has stopped.
var errStopping = errors.New("it is still being stopped")

// restart restarts or stops a unit, unless it was restarted together with another unit.
func (r renewal) restart(ctx context.Context, p Planned) (time.Duration, error) {
	if p.Outcome == impact.TakenOver {
		return r.takeOver(ctx, p.Unit)
	}
	if r.back {
		return r.restore(ctx, p.Unit)
	}
	done, away, err := r.Units.Restarted(ctx, p.Unit, r.since)
	switch {
	case err != nil:
		return 0, err
	case done || p.Outcome.Along():
		return away, nil
	case p.Outcome == impact.Stopped:
		return 0, r.Units.Withdraw(ctx, p.Unit) // unless it was stopped before the swap
	}
	// While the old process still serves: a unit that starts from a cold cache is interrupted for longer.
	if err := r.Usr.Prefetch(ctx, r.uses[p.Unit]); err != nil {
		return 0, err
	}
	if r.revives(p.Unit) {
		return r.Units.Restore(ctx, p.Unit)
	}
	return r.Units.Restart(ctx, p.Unit)
}

// takeOver restarts a stand-in as the unit itself. The stand-in is in its start job, which systemd turns into
// one that restarts the unit, so that a caller that waits for the start waits for that of the unit itself.
func (r renewal) takeOver(ctx context.Context, unit string) (time.Duration, error) {
	state, err := r.Units.ActiveState(ctx, unit)
	if err != nil {
		return 0, err
	}
	if isRunning(state) { // an agent that was stopped since has restarted it, if it has no job
		if done, away, err := r.Units.Restarted(ctx, unit, r.since); err != nil || done {
			return away, err
		}
	}
	return r.Units.Restore(ctx, unit)
}

// restore has a unit run the old code, unless it does so already.
func (r renewal) restore(ctx context.Context, unit string) (time.Duration, error) {
	state, err := r.Units.ActiveState(ctx, unit)
	if err != nil {
		return 0, err
	}
	if state == "deactivating" { // another wait would delay all other units
		return 0, fmt.Errorf("restart %s: %w", unit, errStopping)
	}
	if isRunning(state) {
		done, away, err := r.Units.Restarted(ctx, unit, r.since)
		if err != nil || done {
			return away, err
		}
	}
	return r.Units.Restore(ctx, unit)
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

// reportRest reports what still uses old files, and why it was left as it is.
func (r *run) reportRest(ctx context.Context, last *impact.Assessment, back bool) error {
	pinned, err := r.System.Pinned(ctx)
	if err != nil {
		return fmt.Errorf("audit the mount namespaces: %w", err)
	}
	remaining := remainingOf(last)
	if err := r.rememberOldCode(last, back); err != nil {
		return err
	}
	var left []impact.Left
	r.note(func(report *agentapi.Report) {
		report.Pinned, report.Remaining = pinned, remaining
		if back {
			report.Left = nil // units that were left as they are run the right code again
		} else {
			left = append(left, r.record.Left...)
		}
		for _, unit := range last.Left {
			if !slices.ContainsFunc(left, func(l impact.Left) bool { return l.Unit == unit.Unit }) {
				left = append(left, unit)
			}
		}
		report.Left = union(report.Left, impact.LeftTexts(left))
		report.Pending = union(report.Pending, last.Pending)
		if !back {
			report.Pending = union(report.Pending, impact.BootTexts(r.record.NextBoot))
		}
	})
	return nil
}

// rememberOldCode journals what cannot be found out later: what processes have read of the old
// stack and keep no file of, and which lines of the report say what was left as it was.
func (r *run) rememberOldCode(last *impact.Assessment, back bool) error {
	if back || len(last.Interpreted)+len(last.Pending) == 0 {
		return nil
	}
	all := slices.Clone(last.Interpreted)
	for i := range all {
		all[i].Stack = r.record.From.Key()
		for _, known := range r.record.Interpreted {
			if known.PID == all[i].PID && known.Started == all[i].Started && known.Path == all[i].Path {
				all[i].Stack = known.Stack // it is older than this refresh
			}
		}
	}
	return r.enter(r.record.State, func(record *Record) { record.Interpreted, record.Kept = all, last.Pending })
}

// union adds the lines that are missing.
func union(lines, more []string) []string {
	for _, line := range more {
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

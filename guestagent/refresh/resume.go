package refresh

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

var (
	// errRestarted means that a restart of the VM interrupted the refresh.
	errRestarted = errors.New("the VM was restarted during the refresh and runs what it ran before")
	// errNotStarted means that the VM was started, but not with the new stack.
	errNotStarted = errors.New("the VM was started and runs what it ran before")
)

// resume goes on with the refresh of the journal.
func (e *Engine) resume(sameBoot bool) {
	ctx, cancel := context.WithTimeout(e.life, refreshLimit)
	defer cancel()
	r := &run{Engine: e, diff: &differences{changes: impact.NewChanges()}, cause: errors.New(e.record.Cause)}
	state := e.record.State
	judged := state == Starting || state == Checking // the states in which the agent of the new stack judges it
	runsNew := e.Booted.Same(e.record.To)
	var err error
	switch {
	case sameBoot && e.record.Started && judged, !sameBoot && runsNew && e.record.StartsBy() && judged:
		err = errors.Join(r.tooManyStarts(), r.recallRequest())
		err = errors.Join(err, r.enter(state, func(record *Record) { record.Started = true }))
	case !sameBoot && runsNew && state == RollingBack && e.record.Started:
		// The old stack has yet to be started.
	case !sameBoot:
		r.endAfterBoot(ctx, runsNew)
		return
	default:
		err = errors.Join(r.tooManyStarts(), r.recall(ctx))
		if e.life.Err() != nil {
			r.end()
			return
		}
		// The journal counts this start before anything is done again.
		err = errors.Join(err, r.enter(state, nil))
	}
	switch state {
	case Verified:
		state = Staged // what the assessment found is not in the journal
	case Committed, RollingBack:
		err = nil // both go on without whatever could not be recalled: a commit may have happened, a rollback is due
	}
	r.carryOut(ctx, state, err)
}

// tooManyStarts returns an error if the refresh keeps ending the agent.
func (r *run) tooManyStarts() error {
	if r.record.Starts <= maxStarts {
		return nil
	}
	return fmt.Errorf("the agent was started again %d times during the refresh", r.record.Starts-1)
}

// recall restores what the refresh knew before the agent was restarted.
func (r *run) recall(ctx context.Context) error {
	// The layers come first: a rollback needs them.
	if err := r.openLayers(ctx); err != nil {
		return err
	}
	if err := r.recallRequest(); err != nil {
		return err
	}
	if r.record.Started {
		return nil // nothing has to be compared any more
	}
	var err error
	if r.target, err = openTarget(r.request.GetTarget(), r.record.From, r.Operators,
		r.request.GetAllowDowngrade()); err != nil {
		return err
	}
	diff, err := r.target.compare(ctx, r.Blobs)
	if err != nil {
		return err
	}
	r.diff = diff
	return nil
}

// endAfterBoot ends a refresh that a boot has ended: the root was assembled again, so only /etc is left to be settled.
func (r *run) endAfterBoot(ctx context.Context, runsNew bool) {
	anew := r.record.StartsBy()
	err := r.retry(ctx, func() error {
		if runsNew {
			return r.Etc.End(ctx, r.Booted)
		}
		left, err := r.Etc.Undo(ctx) // unless init has done it
		r.note(func(report *agentapi.Report) { AddConflicts(report, left) })
		return err
	})
	if r.life.Err() != nil {
		r.end()
		return
	}
	if err != nil && !runsNew {
		r.leaveUnfinished(fmt.Errorf("%w; while ending it: %w; the next start of the VM tries again to undo /etc",
			r.whyNot(anew), err))
		return
	}
	if runsNew && err == nil {
		err = r.purge(ctx)
	}
	if anew && !runsNew {
		err = r.Records.MarkBad(r.record.To)
	}
	if r.continueNetwork(ctx) { // it was kept over a soft-reboot, which was the way back
		r.awaitUp(ctx)
		r.releaseNetwork(ctx, "")
		r.Network.Stop()
		if r.life.Err() != nil {
			r.end()
			return
		}
	}
	changed := r.record.State != Staged && r.record.State != Verified
	r.note(func(report *agentapi.Report) {
		report.Done, report.Committed, report.Refused = true, runsNew, !runsNew && !changed
		if !runsNew {
			report.Error = r.whyNot(anew).Error()
		}
		if report.GetRefused() {
			report.Refusal = agentapi.Refusal_REFUSAL_SYSTEM
		}
		if err != nil {
			report.Error += "; while ending it: " + err.Error()
		}
	})
	if changed && !runsNew {
		// Unit files in /etc are as before again.
		if err := r.Units.Reload(ctx); err != nil {
			r.warn("systemd", err)
		}
	}
	r.idle(r.Booted, r.Generation)
}

// whyNot says why the VM runs the old stack after a start.
func (r *run) whyNot(anew bool) error {
	var cause error
	switch {
	case r.record.Cause != "":
		cause = errors.New(r.record.Cause)
		if anew {
			return cause // the start was the rollback
		}
		return fmt.Errorf("%w; %w", cause, errRestarted)
	case anew && r.record.State == Starting && r.NotSwitched != "":
		return fmt.Errorf("%w: %s", errNotStarted, r.NotSwitched)
	case anew && r.record.State == Starting && len(r.Refused) > 0:
		return fmt.Errorf("%w: %s", errNotStarted, strings.Join(r.Refused, "; "))
	case anew && r.record.State == Starting:
		return errNotStarted
	}
	return errRestarted
}

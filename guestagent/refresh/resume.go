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
	// errRestarted is why a refresh ends that a restart of the VM has cut off.
	errRestarted = errors.New("the VM was restarted during the refresh and runs what it ran before")
	// errNotStarted is why one ends whose stack was to be started.
	errNotStarted = errors.New("the VM was started and runs what it ran before")
)

// resume takes up the refresh of the journal.
func (e *Engine) resume(sameBoot bool) {
	ctx, cancel := context.WithTimeout(e.life, refreshLimit)
	defer cancel()
	r := &run{Engine: e, diff: &differences{changes: impact.NewChanges()}}
	switch {
	case !sameBoot:
		r.afterRestart(ctx)
		return
	case e.record.Started && (e.record.State == Starting || e.record.State == Checking):
		r.takeUp(ctx)
		return
	}
	tooOften := fmt.Errorf("the agent was restarted %d times during the refresh", e.record.Starts-1)
	err := r.recall(ctx)
	if e.record.Starts > maxStarts {
		err = errors.Join(tooOften, err)
	}
	if e.life.Err() != nil {
		r.end()
		return
	}
	// How often it was taken up is known before anything of it is done again.
	state := e.record.State
	err = errors.Join(err, r.enter(state, nil))
	switch state {
	case Staged, Verified:
		if err != nil {
			r.refuse(err)
			return
		}
		r.carryOut(ctx, staged{r})
	case Carried:
		if err != nil {
			r.fail(ctx, err)
			return
		}
		next, err := (carried{r}).act(ctx)
		if err == nil {
			err = next.act(ctx)
		}
		r.fail(ctx, err)
	case Starting:
		if err == nil {
			err = (starting{r}).act(ctx)
		}
		r.fail(ctx, err)
	case Swapped, Restarted, Checking:
		switch {
		case err != nil:
			r.fail(ctx, err)
		case state == Swapped:
			r.complete(ctx, swapped{r})
		case state == Restarted:
			r.completeRestarted(ctx, restarted{r})
		default:
			r.completeChecking(ctx, checking{r})
		}
	case Committed:
		if err := (committed{r}).act(); err != nil {
			r.fail(ctx, err)
		}
	default:
		// Whatever could not be recalled is done without: going back needs the old layers alone.
		rollingOut{r, errors.New(e.record.Cause)}.act()
	}
}

// recall brings back what a refresh knew before the agent was restarted.
func (r *run) recall(ctx context.Context) error {
	// First what going back needs.
	if err := r.openLayers(ctx); err != nil {
		return err
	}
	if err := r.recallRequest(); err != nil {
		return err
	}
	if r.record.Started {
		return nil // what was compared is done with
	}
	var err error
	if r.target, err = openTarget(r.request.GetTarget(), r.record.From, r.Operators, r.request.GetAllowDowngrade()); err != nil {
		return err
	}
	diff, err := r.target.compare(ctx, r.Blobs)
	if err != nil {
		return err
	}
	r.diff = diff
	return nil
}

// afterRestart goes on after the system was started: with the new stack if that was the way to it. Else it ends the
// refresh: what runs was assembled anew, and what is left is /etc.
func (r *run) afterRestart(ctx context.Context) {
	runsNew := r.Booted.Same(r.record.To)
	anew := r.record.Strategy != "" && r.record.Strategy != Live
	switch {
	case runsNew && anew && (r.record.State == Starting || r.record.State == Checking):
		r.takeUp(ctx)
		return
	case runsNew && r.record.State == RollingBack && r.record.Started:
		rollingOut{r, errors.New(r.record.Cause)}.act()
		return
	}
	err := r.retry(ctx, func() error {
		if runsNew {
			return r.Etc.End(ctx, r.Booted)
		}
		return r.Etc.Undo(ctx) // unless that was done before services began
	})
	if r.life.Err() != nil {
		r.end()
		return
	}
	if err != nil && !runsNew {
		r.leave(fmt.Errorf("%w; while ending it: %w; the next start of the VM tries again to undo /etc", r.whyNot(anew), err))
		return
	}
	if anew && !runsNew {
		err = r.Records.Distrust(r.record.To)
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
		// Units that were carried along in /etc are as before again.
		if err := r.Units.Reload(ctx); err != nil {
			r.warn("systemd", err)
		}
	}
	r.idle(r.Booted, r.Generation)
}

// whyNot says why the VM was started and does not run the new stack.
func (r *run) whyNot(anew bool) error {
	var cause error
	switch {
	case r.record.Cause != "":
		cause = errors.New(r.record.Cause)
		if anew {
			return cause // the start was the way back
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

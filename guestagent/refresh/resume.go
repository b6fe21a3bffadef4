package refresh

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// errRestarted is why a refresh ends that a restart of the VM has cut off.
var errRestarted = errors.New("the VM was restarted during the refresh and runs what it ran before")

// resume takes up the refresh of the journal.
func (e *Engine) resume(sameBoot bool) {
	ctx, cancel := context.WithTimeout(e.life, refreshLimit)
	defer cancel()
	r := &run{Engine: e, diff: &differences{changes: impact.NewChanges()}}
	if !sameBoot {
		r.afterRestart(ctx)
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
	data, err := r.Records.Request()
	if err != nil {
		return err
	}
	r.request = &agentapi.RefreshRequest{}
	if err := proto.Unmarshal(data, r.request); err != nil {
		return fmt.Errorf("decode the request: %w", err)
	}
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

// afterRestart ends a refresh after the VM was restarted: init has assembled /usr, and what is left is /etc.
func (r *run) afterRestart(ctx context.Context) {
	runsNew := SameStack(r.Booted, r.record.To)
	var err error
	if runsNew {
		err = r.Etc.Settle()
	} else {
		err = r.Etc.Undo(ctx)
	}
	if r.life.Err() != nil {
		r.end()
		return
	}
	changed := r.record.State != Staged && r.record.State != Verified
	r.note(func(report *agentapi.Report) {
		report.Done, report.Committed, report.Refused = true, runsNew, !runsNew && !changed
		if !runsNew {
			cause := errRestarted.Error()
			if r.record.Cause != "" {
				cause = r.record.Cause + "; " + cause
			}
			report.Error = cause
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

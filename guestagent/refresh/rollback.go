package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// tries is how often each step of a rollback is tried.
const tries = 4

// defaultPause is the time between two tries.
const defaultPause = 2 * time.Second

// retry calls act until it succeeds, and returns its last error if it does not.
func (e *Engine) retry(ctx context.Context, act func() error) error {
	between := e.RetryPause
	if between <= 0 {
		between = defaultPause
	}
	var err error
	for range tries {
		if err = act(); err == nil {
			return nil
		}
		if waiting := pause(ctx, between); waiting != nil {
			return errors.Join(err, waiting)
		}
	}
	return err
}

// goBack returns to the old stack in the way in which the refresh left it: it starts the old stack if the new one was
// started. Otherwise it swaps back, undoes /etc and renews what was renewed. It returns an error if something is left
// to undo.
func (r *run) goBack() (step, error) {
	ctx, cancel := context.WithTimeout(r.life, rollbackLimit)
	defer cancel()
	if r.record.Started {
		return step{}, r.unfinished(r.startBack(ctx))
	}
	started := time.Now()
	withdrawn := r.withdrawEnabled(ctx)
	if err := r.retry(ctx, func() error { return r.Usr.Back(ctx, r.from) }); err != nil {
		return step{}, r.unfinished(err)
	}
	undone := r.undoEtc(ctx)
	problems := errors.Join(undone, withdrawn)
	if r.record.Renewed {
		planned := r.interrupted(ctx, r.record.Planned)
		problems = errors.Join(problems,
			r.retry(ctx, func() error { return r.renew(ctx, r.record.From.Kernel, planned, true) }))
	}
	r.releaseNetwork(ctx, "")
	if err := r.life.Err(); err != nil {
		return step{}, err
	}
	problems = errors.Join(problems, r.retry(ctx, r.Usr.Settle))
	if undone != nil {
		return step{}, fmt.Errorf("%w; while going back: %w; the next start of the VM tries again to undo /etc",
			r.cause, problems)
	}
	r.note(func(report *agentapi.Report) {
		report.Done, report.State, report.Error = true, agentapi.State_ROLLING_BACK, r.cause.Error()
		if problems != nil {
			report.Error += "; while going back: " + problems.Error()
		}
		report.Timings = append(report.Timings,
			&agentapi.Timing{Step: "roll back", Micros: time.Since(started).Microseconds()})
	})
	return step{state: Idle, running: r.record.From, generation: r.record.Generation}, nil
}

// undoEtc undoes the carry of /etc, and reports what stays as the refresh, or somebody after it, has left it.
func (r *run) undoEtc(ctx context.Context) error {
	var left []etcmerge.Conflict
	err := r.retry(ctx, func() (err error) {
		left, err = r.Etc.Undo(ctx)
		return err
	})
	r.note(func(report *agentapi.Report) { AddConflicts(report, left) })
	return err
}

// unfinished describes a rollback that failed. The journal has the next boot finish it.
func (r *run) unfinished(err error) error {
	return fmt.Errorf("%w; going back failed, too: %w; the next start of the VM boots the stack from before", r.cause,
		err)
}

// leaveUnfinished ends a refresh of which something is left to undo. The journal has the next agent go on, and no other
// refresh starts before it has.
func (r *run) leaveUnfinished(cause error) {
	r.note(func(report *agentapi.Report) {
		report.Done, report.State, report.Error = true, agentapi.State_ROLLING_BACK, cause.Error()
	})
	r.mutex.Lock()
	r.record.State = RollingBack
	r.mutex.Unlock()
	r.end()
}

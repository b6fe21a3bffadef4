package refresh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// tries is how often what must succeed on the way back is tried.
const tries = 4

// defaultPause is the time between two tries.
const defaultPause = 2 * time.Second

// retry tries until act succeeds, or returns the last failure.
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

// act goes back by the way that was come: it starts the old stack if the new one was started, or swaps back, undoes
// /etc and renews what was renewed.
func (b rollingOut) act() {
	if b.record.Started {
		b.startBack()
		return
	}
	ctx, cancel := context.WithTimeout(b.life, rollbackLimit)
	defer cancel()
	started := time.Now()
	err := b.retry(ctx, func() error { return b.Usr.Back(ctx, b.from) })
	if err != nil {
		if b.life.Err() != nil { // the next agent goes on
			b.end()
			return
		}
		b.unfinished(err)
		return
	}
	undone := b.retry(ctx, func() error { return b.Etc.Undo(ctx) })
	problems := undone
	if b.record.Renewed {
		planned := b.interrupted(ctx, b.record.Planned)
		problems = errors.Join(problems, b.retry(ctx, func() error { return b.renew(ctx, b.record.From.Kernel, planned, true) }))
	}
	if b.life.Err() != nil {
		b.end()
		return
	}
	problems = errors.Join(problems, b.retry(ctx, b.Usr.Settle))
	if undone != nil {
		b.leave(fmt.Errorf("%w; while going back: %w; the next start of the VM tries again to undo /etc", b.cause, problems))
		return
	}
	b.note(func(r *agentapi.Report) {
		r.Done, r.State, r.Error = true, agentapi.State_ROLLING_BACK, b.cause.Error()
		if problems != nil {
			r.Error += "; while going back: " + problems.Error()
		}
		r.Timings = append(r.Timings, &agentapi.Timing{Step: "roll back", Micros: time.Since(started).Microseconds()})
	})
	b.idle(b.record.From, b.record.Generation)
}

// unfinished tells that it could not go back. The journal still says so to the next boot.
func (b rollingOut) unfinished(err error) {
	b.leave(fmt.Errorf("%w; going back failed, too: %w; the next start of the VM boots the stack from before", b.cause, err))
}

// leave ends the flight of a refresh of which something is left to undo. The journal tells the next agent to go on, and
// nothing begins before it has.
func (r *run) leave(cause error) {
	r.note(func(report *agentapi.Report) {
		report.Done, report.State, report.Error = true, agentapi.State_ROLLING_BACK, cause.Error()
	})
	r.mutex.Lock()
	r.record.State = RollingBack
	r.mutex.Unlock()
	r.end()
}

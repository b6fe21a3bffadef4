package units

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
)

// ErrJob means that systemd ran a job and it did not succeed.
var ErrJob = errors.New("the job did not succeed")

const (
	// jobMargin is added to the time that a unit allows itself to stop and to start.
	jobMargin = 30 * time.Second
	jobPause  = 100 * time.Millisecond
)

// Restart stops and starts a unit and waits until it is active again, at most as long as the unit allows itself or
// JobLimit, whatever is longer. A unit that does not run is left as it is. It returns for how long the unit was not active.
func (m *Manager) Restart(ctx context.Context, name string) (time.Duration, error) {
	return m.job(ctx, "restart", "TryRestartUnit", name)
}

// Restore is Restart of a unit that ran before and is to run again: it is started, too, if it failed or was stopped.
func (m *Manager) Restore(ctx context.Context, name string) (time.Duration, error) {
	// It may have failed too often to be started again. That it has not failed is an error, too, and where systemd is not
	// reached at all, the job says so.
	_ = m.call(ctx, callLimit, "reset "+name, "ResetFailedUnit", name)
	return m.job(ctx, "restart", "RestartUnit", name)
}

// Stop stops a unit and waits until it is.
func (m *Manager) Stop(ctx context.Context, name string) error {
	_, err := m.job(ctx, "stop", "StopUnit", name)
	return err
}

// ReloadUnit has a unit read its configuration again. That interrupts nothing.
func (m *Manager) ReloadUnit(ctx context.Context, name string) error {
	_, err := m.job(ctx, "reload", "ReloadUnit", name)
	return err
}

// job runs one job to its end, and returns how long the unit was not active.
func (m *Manager) job(ctx context.Context, what, method, name string) (away time.Duration, err error) {
	err = m.converse(ctx, m.jobLimit(ctx, name), func(c *conversation) error {
		result, err := c.job(method, name)
		switch {
		case errors.Is(err, io.EOF):
			// By a re-execution, for example.
			return fmt.Errorf("%s %s: the connection to systemd was lost: %w", what, name, err)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("%s %s: systemd did not finish the job: %w", what, name, err)
		case err != nil:
			return fmt.Errorf("%s %s: %w", what, name, err)
		case result != "done":
			return fmt.Errorf("%s %s: %w: %s", what, name, ErrJob, result)
		}
		if failpoint.Built && what == "restart" {
			if err := failpoint.Hit("after the restart of a unit"); err != nil {
				return err
			}
		}
		away, _, err = c.interruption(name)
		return err
	})
	return away, err
}

// job has a method queue a job for a unit, and returns how the job ended: "done", "failed" and so on (org.freedesktop.systemd1(5),
// JobRemoved).
func (c *conversation) job(method, name string) (string, error) {
	results := map[string]string{} // of jobs that ended before it was told which is the own one
	removed := func(said message) (string, string) {
		if said.name != "JobRemoved" {
			return "", ""
		}
		body := &cursor{data: said.body} // uoss: number, object, unit, result
		body.number()
		object := body.text()
		body.bytes()
		return object, body.text()
	}
	body, err := c.call(func(said message) {
		if object, result := removed(said); object != "" {
			results[object] = result
		}
	}, method, texts(name, "replace"))
	if err != nil {
		return "", err
	}
	own := (&cursor{data: body}).text()
	if own == "" {
		return "", fmt.Errorf("%w: a job of %d bytes", errAnswer, len(body))
	}
	if result, ended := results[own]; ended {
		return result, nil
	}
	for {
		said, err := c.in.next()
		if err != nil {
			return "", err
		}
		if object, result := removed(said); said.kind == signal && object == own {
			return result, nil
		}
	}
}

// jobLimit is how long a job of the unit may take: as long as the unit allows itself to stop and to start, and JobLimit
// at least. A unit without a limit of its own has JobLimit.
func (m *Manager) jobLimit(ctx context.Context, name string) time.Duration {
	if !strings.HasSuffix(name, ".service") {
		return JobLimit
	}
	answers, err := m.ask(ctx, question{name, serviceFace, "TimeoutStopUSec"}, question{name, serviceFace, "TimeoutStartUSec"})
	if err != nil {
		return JobLimit
	}
	var total time.Duration
	for _, a := range answers {
		if a.number > uint64(maxJob/time.Microsecond) { // "infinity" is the largest number that there is
			return JobLimit
		}
		total += time.Duration(a.number) * time.Microsecond
	}
	return max(JobLimit, min(total+jobMargin, maxJob))
}

// interruption is the time between the last two moments at which the unit stopped and started being active, and when it last
// began to start, in microseconds of the monotonic clock.
func (c *conversation) interruption(name string) (away time.Duration, began uint64, err error) {
	answers, err := c.ask([]question{
		{name, unitFace, "ActiveExitTimestampMonotonic"}, {name, unitFace, "ActiveEnterTimestampMonotonic"},
		{name, unitFace, "InactiveExitTimestampMonotonic"},
	})
	if err != nil {
		return 0, 0, err
	}
	ended, started, began := answers[0].number, answers[1].number, answers[2].number
	if started < ended {
		return 0, began, nil
	}
	return time.Duration(started-ended) * time.Microsecond, began, nil
}

// Restarted waits for what systemd has yet to do with a unit, and tells whether it was started since a moment of the
// monotonic clock, in microseconds, and for how long it was not active before that.
func (m *Manager) Restarted(ctx context.Context, name string, since uint64) (restarted bool, away time.Duration, err error) {
	limit := m.jobLimit(ctx, name)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = m.converse(ctx, limit, func(c *conversation) error {
		for {
			answers, err := c.ask([]question{{name, unitFace, "Job"}})
			if err != nil {
				return err
			}
			if answers[0].number == 0 {
				break // there is none
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for the job of %s: %w", name, ctx.Err())
			case <-time.After(jobPause):
			}
		}
		before, began, err := c.interruption(name)
		if restarted = err == nil && began >= since; restarted {
			away = before
		}
		return err
	})
	return restarted, away, err
}

// Active returns the state of a unit as ActiveState does, and since when it is active, in microseconds of the monotonic
// clock: another moment is another start.
func (m *Manager) Active(ctx context.Context, name string) (state string, since uint64, err error) {
	answers, err := m.ask(ctx, question{name, unitFace, "ActiveState"}, question{name, unitFace, "ActiveEnterTimestampMonotonic"})
	if err != nil {
		return "", 0, err
	}
	return answers[0].text(), answers[1].number, nil
}

// Failure describes why a unit does not run, with the last lines that it logged.
func (m *Manager) Failure(ctx context.Context, name string) string {
	state, err := m.ActiveState(ctx, name)
	if err != nil {
		state = "in an unknown state (" + err.Error() + ")"
	}
	text := name + " is " + state
	if lines := LastLog(ctx, name); lines != "" {
		text += "; it logged last: " + strings.ReplaceAll(lines, "\n", " | ")
	}
	return text
}

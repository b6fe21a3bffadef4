package units

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"

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
	return m.job(ctx, "restart", name, (*systemd.Conn).TryRestartUnitContext)
}

// Restore is Restart of a unit that ran before and is to run again: it is started, too, if it failed or was stopped.
func (m *Manager) Restore(ctx context.Context, name string) (time.Duration, error) {
	conn, err := m.connected(ctx)
	if err != nil {
		return 0, err
	}
	// It may have failed too often to be started again. That it has not failed is an error, too.
	_ = conn.ResetFailedUnitContext(ctx, name)
	return m.job(ctx, "restart", name, (*systemd.Conn).RestartUnitContext)
}

// Stop stops a unit and waits until it is.
func (m *Manager) Stop(ctx context.Context, name string) error {
	_, err := m.job(ctx, "stop", name, (*systemd.Conn).StopUnitContext)
	return err
}

// ReloadUnit has a unit read its configuration again. That interrupts nothing.
func (m *Manager) ReloadUnit(ctx context.Context, name string) error {
	_, err := m.job(ctx, "reload", name, (*systemd.Conn).ReloadUnitContext)
	return err
}

// job runs one job to its end, and returns how long the unit was not active.
func (m *Manager) job(ctx context.Context, what, name string,
	start func(c *systemd.Conn, ctx context.Context, name, mode string, done chan<- string) (int, error),
) (time.Duration, error) {
	conn, err := m.connected(ctx)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, jobLimit(ctx, conn, name))
	defer cancel()
	done := make(chan string, 1)
	if _, err := start(conn, ctx, name, "replace", done); err != nil {
		return 0, fmt.Errorf("%s %s: %w", what, name, err)
	}
	var result string
	for waiting := true; waiting; {
		select {
		case result = <-done:
			waiting = false
		case <-ctx.Done():
			return 0, fmt.Errorf("%s %s: systemd did not finish the job: %w", what, name, ctx.Err())
		case <-time.After(time.Second):
			// The connection that carries the answer can be lost, by a re-execution for example.
			if !conn.Connected() {
				return 0, fmt.Errorf("%s %s: the connection to systemd was lost", what, name)
			}
		}
	}
	if result != "done" {
		return 0, fmt.Errorf("%s %s: %w: %s", what, name, ErrJob, result)
	}
	if failpoint.Built && what == "restart" {
		if err := failpoint.Hit("after the restart of a unit"); err != nil {
			return 0, err
		}
	}
	return m.interruption(ctx, name)
}

// jobLimit is how long a job of the unit may take: as long as the unit allows itself to stop and to start, and JobLimit
// at least. A unit without a limit of its own has JobLimit.
func jobLimit(ctx context.Context, conn *systemd.Conn, name string) time.Duration {
	if !strings.HasSuffix(name, ".service") {
		return JobLimit
	}
	var total time.Duration
	for _, property := range []string{"TimeoutStopUSec", "TimeoutStartUSec"} {
		answer, err := conn.GetServicePropertyContext(ctx, name, property)
		if err != nil {
			return JobLimit
		}
		micros, _ := answer.Value.Value().(uint64)
		if micros > uint64(maxJob/time.Microsecond) { // "infinity" is the largest number that there is
			return JobLimit
		}
		total += time.Duration(micros) * time.Microsecond
	}
	return max(JobLimit, min(total+jobMargin, maxJob))
}

// stamp is one of the moments of a unit, in microseconds of the monotonic clock; 0 if it never was.
func (m *Manager) stamp(ctx context.Context, name, property string) (uint64, error) {
	answer, err := m.unit(ctx, name, property)
	micros, _ := answer.(uint64)
	return micros, err
}

// interruption is the time between the last two moments at which the unit stopped and started being active.
func (m *Manager) interruption(ctx context.Context, name string) (time.Duration, error) {
	ended, err := m.stamp(ctx, name, "ActiveExitTimestampMonotonic")
	if err != nil {
		return 0, err
	}
	started, err := m.stamp(ctx, name, "ActiveEnterTimestampMonotonic")
	if err != nil || started < ended {
		return 0, err
	}
	return time.Duration(started-ended) * time.Microsecond, nil
}

// Restarted waits for what systemd has yet to do with a unit, and tells whether it was started since a moment of the
// monotonic clock, in microseconds, and for how long it was not active before that.
func (m *Manager) Restarted(ctx context.Context, name string, since uint64) (bool, time.Duration, error) {
	conn, err := m.connected(ctx)
	if err != nil {
		return false, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, jobLimit(ctx, conn, name))
	defer cancel()
	for {
		answer, err := m.unit(ctx, name, "Job")
		if err != nil {
			return false, 0, err
		}
		// (uo): the number of the job, 0 if there is none, and its object.
		job, _ := answer.([]any)
		if len(job) == 0 || job[0] == uint32(0) {
			break
		}
		select {
		case <-ctx.Done():
			return false, 0, fmt.Errorf("wait for the job of %s: %w", name, ctx.Err())
		case <-time.After(jobPause):
		}
	}
	started, err := m.stamp(ctx, name, "InactiveExitTimestampMonotonic")
	if err != nil || started < since {
		return false, 0, err
	}
	away, err := m.interruption(ctx, name)
	return true, away, err
}

// Active returns the state of a unit as ActiveState does, and since when it is active, in microseconds of the monotonic
// clock: another moment is another start.
func (m *Manager) Active(ctx context.Context, name string) (state string, since uint64, err error) {
	if state, err = m.ActiveState(ctx, name); err != nil {
		return "", 0, err
	}
	since, err = m.stamp(ctx, name, "ActiveEnterTimestampMonotonic")
	return state, since, err
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

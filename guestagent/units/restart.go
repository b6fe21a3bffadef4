package units

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
)

// ErrJob means that a job of systemd did not succeed.
var ErrJob = errors.New("the job did not succeed")

const (
	// jobMargin is added to the times that a unit may take to stop and to start.
	jobMargin = 30 * time.Second
	jobPause  = 100 * time.Millisecond
)

// Restart stops and starts a unit and waits until it is active again, for as long as the unit's own time limits allow,
// and at least for JobLimit. A unit that does not run stays as it is. It returns for how long the unit was not active.
func (m *Manager) Restart(ctx context.Context, name string) (time.Duration, error) {
	return m.job(ctx, "restart", "TryRestartUnit", name)
}

// Restore restarts a unit that ran before and has to run again. Unlike Restart it also starts a unit that has failed or
// was stopped.
func (m *Manager) Restore(ctx context.Context, name string) (time.Duration, error) {
	// A unit that has failed too often is not started without this. The call fails for a unit that has not failed, and
	// if systemd cannot be reached, the job reports it.
	_ = m.call(ctx, callLimit, "reset "+name, "ResetFailedUnit", name)
	return m.job(ctx, "restart", "RestartUnit", name)
}

// Startable says why a unit that a release enables by a symbolic link cannot be started now; "" if it can. running is
// true if it runs already.
func (m *Manager) Startable(ctx context.Context, name, link string) (running bool, why string, err error) {
	if _, err := os.Lstat(link); errors.Is(err, fs.ErrNotExist) {
		return false, "it is disabled here", nil
	} else if err != nil {
		return false, "", err
	}
	values, err := m.get(ctx, property{name, unitInterface, "LoadState"}, property{name, unitInterface, "ActiveState"},
		property{name, unitInterface, "RefuseManualStart"})
	if err != nil {
		return false, "", err
	}
	load, active, refuses := values[0].text(), values[1].text(), values[2].set
	switch {
	case load != "loaded":
		return false, "it is " + load, nil
	case active == "active" || active == "activating" || active == "reloading" || active == "refreshing":
		return true, "", nil
	case refuses:
		return false, "it refuses to be started by hand; a reboot starts it", nil
	}
	return false, "", nil
}

// Start starts a unit, after the units that it needs, and returns how long that took. skipped is true if a condition of
// the unit was not met (systemd.unit(5), ConditionPathExists= and others), so that systemd did not start it.
func (m *Manager) Start(ctx context.Context, name string) (took time.Duration, skipped bool, err error) {
	started := time.Now()
	if _, err := m.job(ctx, "start", "StartUnit", name); err != nil {
		return time.Since(started), false, err
	}
	took = time.Since(started)
	values, err := m.get(ctx, property{name, unitInterface, "ActiveState"},
		property{name, unitInterface, "ConditionResult"})
	if err != nil {
		return took, false, err
	}
	return took, values[0].text() == "inactive" && !values[1].set, nil
}

// Withdraw stops a unit that did not run before a refresh, and has systemd forget that it has failed. A unit that
// systemd does not know is stopped already.
func (m *Manager) Withdraw(ctx context.Context, name string) error {
	state, err := m.ActiveState(ctx, name)
	if err != nil {
		return err
	}
	if state != "inactive" && state != "failed" {
		if err := m.Stop(ctx, name); err != nil {
			return err
		}
	}
	// The call fails for a unit that has not failed.
	_ = m.call(ctx, callLimit, "reset "+name, "ResetFailedUnit", name)
	return nil
}

// Stop stops a unit and waits until it has stopped.
func (m *Manager) Stop(ctx context.Context, name string) error {
	_, err := m.job(ctx, "stop", "StopUnit", name)
	return err
}

// ReloadUnit has a unit read its configuration again, which does not interrupt it.
func (m *Manager) ReloadUnit(ctx context.Context, name string) error {
	_, err := m.job(ctx, "reload", "ReloadUnit", name)
	return err
}

// job has systemd run a job, waits for its end, and returns for how long the unit was not active.
func (m *Manager) job(ctx context.Context, what, method, name string) (away time.Duration, err error) {
	err = m.connected(ctx, m.jobLimit(ctx, name), func(c *connection) error {
		result, err := c.job(method, name)
		switch {
		case errors.Is(err, io.EOF):
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

// job calls a method that queues a job for a unit, and returns the result of the job: "done", "failed" and so on
// (org.freedesktop.systemd1(5), JobRemoved).
func (c *connection) job(method, name string) (string, error) {
	results := map[string]string{} // of jobs that ended before the reply named the own job
	removed := func(received message) (job, result string) {
		if received.name != "JobRemoved" {
			return "", ""
		}
		body := &cursor{data: received.body} // uoss: number, object, unit, result
		body.number()
		job = body.text()
		body.bytes()
		return job, body.text()
	}
	body, err := c.call(func(received message) {
		if job, result := removed(received); job != "" {
			results[job] = result
		}
	}, method, texts(name, "replace"))
	if err != nil {
		return "", err
	}
	own := (&cursor{data: body}).text()
	if own == "" {
		return "", fmt.Errorf("%w: a job of %d bytes", errMessage, len(body))
	}
	if result, ended := results[own]; ended {
		return result, nil
	}
	for {
		received, err := c.in.next()
		if err != nil {
			return "", err
		}
		if job, result := removed(received); received.kind == signal && job == own {
			return result, nil
		}
	}
}

// jobLimit is how long a job of the unit may take: as long as the unit may take to stop and to start, and at least
// JobLimit. A unit without a time limit has JobLimit.
func (m *Manager) jobLimit(ctx context.Context, name string) time.Duration {
	if !strings.HasSuffix(name, ".service") {
		return JobLimit
	}
	values, err := m.get(ctx, property{name, serviceInterface, "TimeoutStopUSec"},
		property{name, serviceInterface, "TimeoutStartUSec"})
	if err != nil {
		return JobLimit
	}
	var total time.Duration
	for _, limit := range values {
		if limit.number > uint64(maxJob/time.Microsecond) { // "infinity" is the largest number
			return JobLimit
		}
		total += time.Duration(limit.number) * time.Microsecond
	}
	return max(JobLimit, min(total+jobMargin, maxJob))
}

// interruption returns for how long the unit was not active before it last became active, and when it last began to
// start, in microseconds of the monotonic clock.
func (c *connection) interruption(name string) (away time.Duration, began uint64, err error) {
	values, err := c.get([]property{
		{name, unitInterface, "ActiveExitTimestampMonotonic"}, {name, unitInterface, "ActiveEnterTimestampMonotonic"},
		{name, unitInterface, "InactiveExitTimestampMonotonic"},
	})
	if err != nil {
		return 0, 0, err
	}
	ended, started, began := values[0].number, values[1].number, values[2].number
	if started < ended {
		return 0, began, nil
	}
	return time.Duration(started-ended) * time.Microsecond, began, nil
}

// Restarted waits until systemd has no job for a unit, and reports whether the unit was started since a moment of the
// monotonic clock, in microseconds, and for how long it was not active before.
func (m *Manager) Restarted(ctx context.Context, name string,
	since uint64) (restarted bool, away time.Duration, err error) {
	limit := m.jobLimit(ctx, name)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err = m.connected(ctx, limit, func(c *connection) error {
		for {
			values, err := c.get([]property{{name, unitInterface, "Job"}})
			if err != nil {
				return err
			}
			if values[0].number == 0 {
				break // it has no job
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

// Active returns the state of a unit, and since when it is active, in microseconds of the monotonic clock. Another
// moment means another start.
func (m *Manager) Active(ctx context.Context, name string) (state string, since uint64, err error) {
	values, err := m.get(ctx, property{name, unitInterface, "ActiveState"},
		property{name, unitInterface, "ActiveEnterTimestampMonotonic"})
	if err != nil {
		return "", 0, err
	}
	return values[0].text(), values[1].number, nil
}

// cgroups is where the unified hierarchy of control groups is mounted (cgroups(7)).
const cgroups = "/sys/fs/cgroup"

// ControlGroup returns the directory of the control group of a service; "" if it has none, since it has no processes.
func (m *Manager) ControlGroup(ctx context.Context, name string) (string, error) {
	values, err := m.get(ctx, property{name, serviceInterface, "ControlGroup"})
	if err != nil || values[0].text() == "" {
		return "", err
	}
	return filepath.Join(cgroups, filepath.Join("/", values[0].text())), nil
}

// Failure describes the state of a unit that does not run, with the last lines that it logged.
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

package units

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// ErrJob means that systemd ran a job and it did not succeed.
var ErrJob = errors.New("the job did not succeed")

// Restart stops and starts a unit and waits until it is active again, at most JobLimit. A unit that does not run
// is left as it is. It returns for how long the unit was not active.
func (m *Manager) Restart(ctx context.Context, name string) (time.Duration, error) {
	away, err := m.job(ctx, "restart", name, func(ctx context.Context, conn *systemd.Conn, done chan<- string) error {
		_, err := conn.TryRestartUnitContext(ctx, name, "replace", done)
		return err
	})
	if failpoint.Built && err == nil {
		err = failpoint.Hit("after the restart of a unit")
	}
	return away, err
}

// ReloadUnit has a unit read its configuration again. That interrupts nothing.
func (m *Manager) ReloadUnit(ctx context.Context, name string) error {
	_, err := m.job(ctx, "reload", name, func(ctx context.Context, conn *systemd.Conn, done chan<- string) error {
		_, err := conn.ReloadUnitContext(ctx, name, "replace", done)
		return err
	})
	return err
}

// job runs one job to its end.
func (m *Manager) job(ctx context.Context, what, name string, start func(context.Context, *systemd.Conn, chan<- string) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, JobLimit)
	defer cancel()
	conn, err := m.connected(ctx)
	if err != nil {
		return 0, err
	}
	done := make(chan string, 1)
	if err := start(ctx, conn, done); err != nil {
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
	return interruption(ctx, conn, name)
}

// interruption is the time between the last two moments at which the unit stopped and started being active.
func interruption(ctx context.Context, conn *systemd.Conn, name string) (time.Duration, error) {
	stamp := func(property string) (uint64, error) {
		p, err := conn.GetUnitPropertyContext(ctx, name, property)
		if err != nil {
			return 0, fmt.Errorf("ask systemd for %s of %s: %w", property, name, err)
		}
		micros, _ := p.Value.Value().(uint64)
		return micros, nil
	}
	ended, err := stamp("ActiveExitTimestampMonotonic")
	if err != nil {
		return 0, err
	}
	started, err := stamp("ActiveEnterTimestampMonotonic")
	if err != nil || started < ended {
		return 0, err
	}
	return time.Duration(started-ended) * time.Microsecond, nil
}

// Order sorts units so that each comes after those that it is to be started after. Units that wait for each other
// in a circle come in the order of their names.
func Order(names []string, facts map[string]impact.Unit) []string {
	names = slices.Sorted(slices.Values(names))
	ordered := make([]string, 0, len(names))
	visited := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if visited[name] {
			return
		}
		visited[name] = true
		for _, before := range slices.Sorted(slices.Values(facts[name].After)) {
			if slices.Contains(names, before) {
				visit(before)
			}
		}
		ordered = append(ordered, name)
	}
	for _, name := range names {
		visit(name)
	}
	return ordered
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

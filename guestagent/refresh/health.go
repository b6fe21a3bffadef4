package refresh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

const (
	// defaultTimeout bounds how long a check without a timeout may take to become good.
	defaultTimeout = 30 * time.Second
	maxTimeout     = 10 * time.Minute
	maxSettle      = 10 * time.Minute
	// attemptLimit bounds one attempt of a check.
	attemptLimit = 10 * time.Second
	healthPause  = 250 * time.Millisecond
	// maxDescribed is how many running units are described when a check fails and no unit has failed.
	maxDescribed = 3
)

// ErrHealth means that something was healthy before a refresh and is not healthy after it.
var ErrHealth = errors.New("healthy before the refresh and not after it")

// ErrChecks means that a health check failed before a refresh that requires all of them.
var ErrChecks = errors.New("health checks fail before the refresh, and all are required (require_checks)")

// timeout returns the timeout of a check, within bounds.
func timeout(check *agentapi.HealthCheck) time.Duration {
	given := time.Duration(check.GetTimeoutMs()) * time.Millisecond
	if given <= 0 {
		return defaultTimeout
	}
	return min(given, maxTimeout)
}

// healthy returns the names of the checks that are good now, and the bad ones, each with the reason. A check that is
// bad before a refresh says nothing about the refresh. All are made at the same time, since a bad one can take long.
func healthy(ctx context.Context, health Health, checks []*agentapi.HealthCheck) (good, bad []string) {
	failed := make([]error, len(checks))
	var attempts sync.WaitGroup
	for i, check := range checks {
		attempts.Go(func() { failed[i] = attempt(ctx, health, check) })
	}
	attempts.Wait()
	for i, check := range checks {
		if failed[i] != nil {
			bad = append(bad, check.GetName()+": "+failed[i].Error())
		} else {
			good = append(good, check.GetName())
		}
	}
	return good, bad
}

func attempt(ctx context.Context, health Health, check *agentapi.HealthCheck) error {
	ctx, cancel := context.WithTimeout(ctx, min(attemptLimit, timeout(check)))
	defer cancel()
	return health.Check(ctx, check)
}

// baselineChecks are the checks that were good before the refresh.
func (r *run) baselineChecks() (checks []*agentapi.HealthCheck) {
	for _, check := range r.request.GetHealthChecks() {
		if slices.Contains(r.record.Baseline, check.GetName()) {
			checks = append(checks, check)
		}
	}
	return checks
}

// observation is a moment at which all checks were good and all renewed units ran.
type observation struct {
	at      time.Time
	running map[string]uint64
}

// observe notes once all units are restarted whether everything is good. The time for which it has to stay so then
// begins before the agent looks for what still runs old code.
func (r *run) observe(ctx context.Context) {
	r.observed = nil
	checks := r.baselineChecks()
	if _, bad := healthy(ctx, r.Health, checks); len(bad) > 0 {
		return
	}
	if running, err := r.runningUnits(ctx, checks); err == nil { // settle reports what is wrong
		r.observed = &observation{time.Now(), running}
	}
}

// settle waits until all checks of the baseline are good and all renewed units run, and that they stay so for the
// requested time.
func (r *run) settle(ctx context.Context) error {
	checks := r.baselineChecks()
	for _, check := range checks {
		if err := r.become(ctx, check); err != nil {
			return err
		}
	}
	running, err := r.runningUnits(ctx, checks)
	if err != nil {
		return err
	}
	hold := min(max(0, time.Duration(r.request.GetSettleMs())*time.Millisecond), maxSettle)
	began := time.Now()
	if r.observed != nil && maps.Equal(running, r.observed.running) {
		began = r.observed.at
	}
	for end := began.Add(hold); time.Now().Before(end); {
		if err := pause(ctx, min(healthPause, time.Until(end))); err != nil {
			return err
		}
		for _, check := range checks {
			if err := attempt(ctx, r.Health, check); err != nil {
				return r.unhealthy(ctx, check, err)
			}
		}
		if err := r.stillRunning(ctx, running); err != nil {
			return err
		}
	}
	return nil
}

// become waits until a check is good.
func (r *run) become(ctx context.Context, check *agentapi.HealthCheck) error {
	end := time.Now().Add(timeout(check))
	for {
		err := attempt(ctx, r.Health, check)
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return r.unhealthy(ctx, check, err)
		}
		if err := pause(ctx, healthPause); err != nil {
			return err
		}
	}
}

func (r *run) unhealthy(ctx context.Context, check *agentapi.HealthCheck, cause error) error {
	return withFailures(ctx, r.Units, check, r.record.Planned,
		fmt.Errorf("health check %q: %w: %w", check.GetName(), ErrHealth, cause))
}

// Check makes health checks once, and returns those that fail, in their order.
func (e *Engine) Check(ctx context.Context, checks []*agentapi.HealthCheck) (failed []*agentapi.FailedCheck) {
	e.mutex.Lock()
	planned := slices.Clone(e.record.Planned)
	e.mutex.Unlock()
	causes := make([]error, len(checks))
	var attempts sync.WaitGroup
	for i, check := range checks {
		attempts.Go(func() { causes[i] = attempt(ctx, e.Health, check) })
	}
	attempts.Wait()
	for i, check := range checks {
		if causes[i] != nil {
			reason := withFailures(ctx, e.Units, check, planned, causes[i])
			failed = append(failed, &agentapi.FailedCheck{Name: check.GetName(), Reason: reason.Error()})
		}
	}
	return failed
}

// withFailures adds to the error of a health check what its unit logged last. planned are the units
// that the last refresh renewed.
func withFailures(ctx context.Context, units Units, check *agentapi.HealthCheck, planned []Planned, err error) error {
	if unit := check.GetUnit(); unit != "" {
		return fmt.Errorf("%w: %s", err, units.Failure(ctx, unit))
	}
	// A renewed unit that has failed says more than the check. If there is none, describe some that run.
	var down, up []string
	for _, p := range planned {
		state, stateErr := units.ActiveState(ctx, p.Unit)
		switch {
		case stateErr != nil || state == "inactive":
		case !isRunning(state):
			down = append(down, p.Unit)
		case len(up) < maxDescribed && p.Outcome != impact.Reloaded:
			up = append(up, p.Unit)
		}
	}
	if len(down) == 0 {
		down = up
	}
	for _, unit := range down {
		err = fmt.Errorf("%w: %s", err, units.Failure(ctx, unit))
	}
	return err
}

// isRunning reports whether a unit in this state is active.
func isRunning(state string) bool {
	return state == "active" || state == "reloading" || state == "refreshing"
}

// runningUnits returns which renewed units and units of checks run now, and since when. A renewed unit that has ended
// by itself without failing is left out.
func (r *run) runningUnits(ctx context.Context, checks []*agentapi.HealthCheck) (map[string]uint64, error) {
	running := map[string]uint64{}
	var names []string
	for _, p := range r.record.Planned {
		if p.Outcome.Interrupts() && !p.Outcome.Stops() && !r.revives(p.Unit) {
			names = append(names, p.Unit)
		}
	}
	for _, check := range checks {
		if check.GetUnit() != "" {
			names = append(names, check.GetUnit())
		}
	}
	for _, name := range names {
		state, since, err := r.Units.Active(ctx, name)
		switch {
		case err != nil:
			return nil, err
		case isRunning(state):
			running[name] = since
		case state != "inactive":
			return nil, fmt.Errorf("%w: %s", ErrHealth, r.Units.Failure(ctx, name))
		}
	}
	return running, nil
}

// stillRunning returns an error if a unit does not run any more, or was started again meanwhile.
func (r *run) stillRunning(ctx context.Context, running map[string]uint64) error {
	for _, name := range slices.Sorted(maps.Keys(running)) {
		state, since, err := r.Units.Active(ctx, name)
		switch {
		case err != nil:
			return err
		case !isRunning(state):
			return fmt.Errorf("%w: %s", ErrHealth, r.Units.Failure(ctx, name))
		case since != running[name]:
			return fmt.Errorf("%w: %s ended and was started again: %s", ErrHealth, name, r.Units.Failure(ctx, name))
		}
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("wait: %w", ctx.Err())
	case <-timer.C:
		return nil
	}
}

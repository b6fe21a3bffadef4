package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// movedAtOnce is how many VMs of a host all rollouts of one provider move at a time, as many as Terraform changes resources.
const movedAtOnce = 10

// rolloutFleet is a rollout.Fleet of the VMs of a host.
type rolloutFleet struct {
	vms    vm.Interface
	target vm.Target
	// tell reports the steps of a VM.
	tell func(name, step string)
}

var _ rollout.Fleet = rolloutFleet{}

// Look implements rollout.Fleet.
func (f rolloutFleet) Look(ctx context.Context, name string) (rollout.Sight, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := f.vms.Read(ctx, name)
	switch {
	case errors.Is(err, vm.ErrNotFound):
		return rollout.Sight{Condition: rollout.Missing}, nil
	case errors.Is(err, hypervisor.ErrForeign):
		return rollout.Sight{Condition: rollout.Apart}, nil
	case err != nil:
		return rollout.Sight{}, err
	}
	return seen(found, f.target), nil
}

// seen is a VM as a rollout to a target sees it.
func seen(found *vm.VM, target vm.Target) rollout.Sight {
	sight := rollout.Sight{Condition: rollout.Behind, Off: found.State != hypervisor.Running && found.State != hypervisor.Paused}
	defined := found.Spec.Target().Equal(target)
	follows := sight.Off || found.Stack.Same(found.Configured) || found.AwaitsPowerCycle
	switch {
	case found.Rollout == nil:
		sight.Condition = rollout.Apart
	case found.State == hypervisor.Paused:
		sight.Condition, sight.Why = rollout.Silent, "it is paused; resume it with virsh resume "+found.Spec.Name
	case silent(found):
		sight.Condition, sight.Why = rollout.Silent, "its agent does not answer"
		if found.NoAnswer != nil {
			sight.Why = found.NoAnswer.Error()
		}
	case !defined || !follows:
	case found.Rollout.Moved != nil:
		sight.Condition, sight.MovedAt = rollout.Moved, found.Rollout.Moved.At
	default:
		sight.Condition = rollout.Current
	}
	return sight
}

// Move implements rollout.Fleet.
func (f rolloutFleet) Move(ctx context.Context, name string) (rollout.Report, error) {
	began := time.Now()
	moved, report, err := f.vms.Move(ctx, name, f.target, false, func(step string) { f.tell(name, step) })
	if err != nil {
		return rollout.Report{}, f.kindOf(ctx, name, report, err)
	}
	done := rollout.Report{Away: awayIn(report, time.Since(began))}
	switch {
	case moved.AwaitsPowerCycle:
		done.Note = "the release takes effect at the next power-off and start"
	case moved.State != hypervisor.Running:
		done.Note = "it is off, and starts with the release"
	case moved.OtherAgent != "":
		done.Note = "its agent was not replaced: " + plain.Line(moved.OtherAgent)
	}
	return done, nil
}

// awayIn is how long a unit was away at most in a refresh that took some time.
func awayIn(report *agentapi.Report, took time.Duration) (away time.Duration) {
	if report == nil {
		return 0
	}
	if strategy := report.GetStrategy(); strategy != "" && strategy != vm.Live {
		return took // all units were ended
	}
	for _, restart := range report.GetRestarts() {
		away = max(away, time.Duration(restart.GetInterruptionUs())*time.Microsecond)
	}
	return away
}

// kindOf says what kind of failure an error is.
func (f rolloutFleet) kindOf(ctx context.Context, name string, report *agentapi.Report, err error) error {
	switch {
	case errors.Is(err, vm.ErrNotFound):
		return fmt.Errorf("%w: %w", rollout.ErrMissing, err)
	case errors.Is(err, vm.ErrNotLive):
		return fmt.Errorf("%w: %w", rollout.ErrSkipped, err)
	case errors.Is(err, vm.ErrNoAnswer), errors.Is(err, vm.ErrPaused):
		return fmt.Errorf("%w: %w", rollout.ErrSilent, err)
	case errors.Is(err, vm.ErrRolledBack):
		var units []string
		for _, restart := range report.GetRestarts() {
			if restart.GetError() != "" {
				units = append(units, restart.GetUnit()+": "+restart.GetError())
			}
		}
		if len(units) > 0 {
			return fmt.Errorf("%w\nUnits that failed:%s", err, plain.Guest(units...))
		}
		return err
	case ctx.Err() != nil:
		return err
	}
	// Whatever it was, a VM that does not answer now is away.
	look, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if found, lookErr := f.vms.Read(look, name); lookErr == nil && silent(found) {
		return fmt.Errorf("%w: %w", rollout.ErrSilent, err)
	}
	return err
}

// TakeBack implements rollout.Fleet.
func (f rolloutFleet) TakeBack(ctx context.Context, name string) error {
	found, err := f.vms.Read(ctx, name)
	if err != nil {
		return err
	}
	if found.Rollout == nil || found.Rollout.Moved == nil {
		return errors.New("it is not recorded what it ran before")
	}
	_, _, err = f.vms.Move(ctx, name, found.Rollout.Moved.From, true, func(step string) { f.tell(name, step) })
	return err
}

// Health implements rollout.Fleet.
func (f rolloutFleet) Health(ctx context.Context, name string) ([]rollout.Failure, error) {
	checks, err := f.vms.Health(ctx, name)
	switch {
	case errors.Is(err, vm.ErrNotFound):
		return nil, fmt.Errorf("%w: %w", rollout.ErrMissing, err)
	case errors.Is(err, vm.ErrNoAnswer), errors.Is(err, vm.ErrOldAgent):
		return nil, fmt.Errorf("%w: %w", rollout.ErrSilent, err)
	case err != nil:
		return nil, err
	}
	var failed []rollout.Failure
	for _, check := range limited(checks) {
		failed = append(failed, rollout.Failure{Check: check.GetName(), Why: check.GetReason()})
	}
	return failed, nil
}

// Passed implements rollout.Fleet.
func (f rolloutFleet) Passed(ctx context.Context, name string) error {
	err := f.vms.Passed(ctx, name)
	if errors.Is(err, vm.ErrNotFound) {
		return fmt.Errorf("%w: %w", rollout.ErrMissing, err)
	}
	return err
}

// wallClock is the real time.
type wallClock struct{}

// Now implements rollout.Clock.
func (wallClock) Now() time.Time { return time.Now() }

// Sleep implements rollout.Clock.
func (wallClock) Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

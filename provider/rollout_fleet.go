package provider

import (
	"cmp"
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

// movedAtOnce is how many VMs of a host all rollouts of one provider move at a time, as many as
// Terraform changes resources.
const movedAtOnce = 10

// moveLimit bounds how long one VM is moved, or taken back. It is longer than the agent's own
// limits, 30 minutes for a refresh and 20 for its rollback, with a power-off and a start.
const moveLimit = 75 * time.Minute

// rolloutFleet is a rollout.Fleet of the VMs of a host.
type rolloutFleet struct {
	vms    vm.Interface
	target vm.Target
	// tell reports the steps of a VM.
	tell func(name, step string)
	// limit is moveLimit unless it is set.
	limit time.Duration
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
	sight := rollout.Sight{Condition: rollout.Behind,
		Off: found.State != hypervisor.Running && found.State != hypervisor.Paused}
	defined := found.Spec.Target().Equal(target)
	follows := sight.Off || found.Stack.Same(found.Configured) || found.AwaitsPowerCycle
	var moved *vm.Moved
	if found.Rollout != nil && defined {
		moved = found.Rollout.Moved
	}
	if moved != nil {
		sight.MovedAt = moved.At
	}
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
	case sight.Off && moved != nil && !moved.Off:
		sight.Condition, sight.Why = rollout.Silent,
			"it is off, and ran when it got the release; start it, or take it out of the rollout"
	case !defined || !follows:
		sight.MovedAt = time.Time{}
	case moved != nil:
		sight.Condition = rollout.Moved
	default:
		sight.Condition = rollout.Current
	}
	return sight
}

// Move implements rollout.Fleet.
func (f rolloutFleet) Move(ctx context.Context, name string) (rollout.Report, error) {
	began := time.Now()
	moved, report, err := f.moveAndDefine(ctx, name, f.target, false)
	done := rollout.Report{Away: awayIn(report, time.Since(began))}
	var after *afterMove
	switch {
	case errors.As(err, &after) && after.defined:
		done.Note = "it has the release, and this failed afterwards: " + plain.Line(after.cause.Error())
		return done, nil
	case err != nil:
		return rollout.Report{}, f.kindOf(ctx, name, report, err)
	}
	done.Off = moved.State != hypervisor.Running
	switch {
	case moved.AwaitsPowerCycle:
		done.Note = "the release takes effect at the next power-off and start"
	case done.Off:
		done.Note = "it is off, and starts with the release"
	case moved.OtherAgent != "":
		done.Note = "its agent was not replaced: " + plain.Line(moved.OtherAgent)
	}
	return done, nil
}

// afterMove is an error from after the guest has taken the target on.
type afterMove struct {
	cause error
	// defined is true if the definition has followed the guest, so that the VM can be taken back.
	defined bool
}

func (a *afterMove) Error() string {
	return "it runs the new release, and its definition does not say so; apply again: " + a.cause.Error()
}
func (a *afterMove) Unwrap() error { return a.cause }

// moveAndDefine moves a VM within the limit, at whose end the error matches rollout.ErrSilent. If something fails after
// the guest has taken the target on, it is tried once more, which refreshes nothing; then the error is an *afterMove.
func (f rolloutFleet) moveAndDefine(ctx context.Context, name string, to vm.Target,
	back bool) (*vm.VM, *agentapi.Report, error) {
	limit := cmp.Or(f.limit, moveLimit)
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	move := func() (*vm.VM, *agentapi.Report, error) {
		return f.vms.Move(limited, name, to, back, func(step string) { f.tell(name, step) })
	}
	moved, report, err := move()
	if err != nil && limited.Err() == nil {
		runs, defined := f.runs(limited, name, to)
		if runs && !defined {
			moved, _, err = move()
		}
		if runs && err != nil {
			_, defined = f.runs(limited, name, to)
			err = &afterMove{err, defined}
		}
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: its move has not ended within %s, and may go on by itself: %w",
			rollout.ErrSilent, limit, err)
	}
	return moved, report, err
}

// runs reports whether a guest runs the stack of a target, and whether the definition of the VM has it, too.
func (f rolloutFleet) runs(ctx context.Context, name string, target vm.Target) (runs, defined bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	found, err := f.vms.Read(ctx, name)
	if err != nil || !found.Answered {
		return false, false
	}
	return target.Makes(found.Stack), found.Spec.Target().Equal(target)
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
	case errors.Is(err, rollout.ErrSilent):
		return err
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
	_, _, err = f.moveAndDefine(ctx, name, found.Rollout.Moved.From, true)
	if after := (*afterMove)(nil); errors.As(err, &after) && after.defined {
		return nil // the next update of the VM does the rest
	}
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

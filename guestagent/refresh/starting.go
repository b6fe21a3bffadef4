package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// defaultStartLimit bounds how long the old stack takes to end: systemd gives each service 90 s.
	defaultStartLimit = 10 * time.Minute
	// upLimit bounds the time until systemd has started everything of the new one.
	upLimit = 10 * time.Minute
)

var (
	// errNotEnded means that neither systemd nor the host has ended the old stack.
	errNotEnded = errors.New("the old stack was not ended in time")
	// errNotUp means that systemd did not start everything of the new stack.
	errNotUp = errors.New("the system did not come up")
)

// carry carries /etc while the old stack still runs: afterwards there is nothing to compare it with.
func (r *run) carry(ctx context.Context) (step, error) {
	var generate []string
	err := r.timed("etc", func() (err error) {
		generate, err = r.carryEtc(ctx)
		return err
	})
	if err != nil {
		return step{}, err
	}
	if err := r.Records.MarkGood(r.record.To); err != nil { // earlier failures of this stack do not count
		return step{}, err
	}
	boot := r.carried(r.record.NextBoot)
	return step{state: Starting, change: func(record *Record) {
		record.Generate, record.Began, record.NextBoot = generate, time.Now().UnixMilli(), boot
	}}, nil
}

// start has the new stack started, or waits until it has started if it runs already.
func (r *run) start(ctx context.Context) (step, error) {
	if r.record.Started {
		return r.awaitStarted(ctx)
	}
	return step{}, r.startStack(ctx)
}

// startStack has the new stack started in the way of the rung. That ends the agent, so it returns only when the stack
// is not started, or when the agent is being stopped.
func (r *run) startStack(ctx context.Context) error {
	var err error
	switch r.record.Strategy {
	case SoftReboot:
		if r.NotSwitched != "" && r.record.Starts > 1 {
			return errors.New(r.NotSwitched)
		}
		r.keepNetworkOver(ctx)
		err = r.Starter.SoftReboot(ctx)
	case Kexec:
		err = r.kexec(ctx)
	}
	// For Reboot the host sees the state, and powers the VM off.
	if err == nil {
		err = r.awaitEnd(ctx)
	}
	if r.life.Err() == nil { // the agent goes on: no kexec may happen any more
		err = errors.Join(err, r.Starter.Kexec(ctx, nil, nil, "", release.Stack{}))
	}
	return err
}

// kexec starts the kernel that the host uploaded, which is the one that the signed manifest names.
func (r *run) kexec(ctx context.Context) (err error) {
	files, err := r.openKernel()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	return r.Starter.Kexec(ctx, files.kernel, files.initramfs, r.request.GetCommandLine(), r.record.To)
}

// awaitEnd waits for the agent's own end.
func (r *run) awaitEnd(ctx context.Context) error {
	limit := r.StartLimit
	if limit <= 0 {
		limit = defaultStartLimit
	}
	if err := pause(ctx, limit); err != nil {
		return err
	}
	return fmt.Errorf("%w: it runs %v after it was to end", errNotEnded, limit)
}

// recallRequest reads the request of the refresh.
func (r *run) recallRequest() error {
	var found bool
	var err error
	r.request, found, err = lastRequest(r.Records)
	if err == nil && !found {
		err = errors.New("the request of the refresh is missing")
	}
	return err
}

// awaitStarted waits until systemd has started everything of the new stack, and no unit has failed that had not failed
// before.
func (r *run) awaitStarted(ctx context.Context) (step, error) {
	r.continueNetwork(ctx)
	if err := r.timed("come up", func() error { return r.comeUp(ctx) }); err != nil {
		return step{}, err
	}
	if r.record.LoaderCache {
		r.record.Generate = append(r.record.Generate, "ld.so.cache")
	}
	r.generate(ctx, r.record.Generate)
	// From the end of the old stack's services, at the earliest, to the start of the new ones. The clock may have been
	// set meanwhile.
	took := max(0, time.Now().UnixMilli()-r.record.Began)
	r.note(func(report *agentapi.Report) {
		report.Timings = append(report.Timings, &agentapi.Timing{Step: "start", Micros: took * 1000})
	})
	return step{state: Checking}, nil
}

// comeUp waits until systemd has started everything.
func (r *run) comeUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	for {
		state, err := r.Units.State(ctx)
		switch {
		case err != nil: // systemd is busy
		case state == "running":
			return nil
		case state == "degraded":
			return r.newlyFailed(ctx)
		case state == "maintenance":
			return errors.Join(fmt.Errorf("%w: it is in maintenance", errNotUp), r.newlyFailed(ctx))
		}
		if waiting := pause(ctx, healthPause); waiting != nil {
			return errors.Join(fmt.Errorf("%w: systemd is %q", errNotUp, state),
				r.newlyFailed(context.WithoutCancel(ctx)), err, waiting)
		}
	}
}

// awaitUp waits until systemd has started everything, whatever has failed.
func (r *run) awaitUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, upLimit)
	defer cancel()
	for {
		state, err := r.Units.State(ctx)
		if err == nil && state != "initializing" && state != "starting" || pause(ctx, healthPause) != nil {
			return
		}
	}
}

// newlyFailed returns an error for each unit that has failed and ran before, with what it logged.
// Other failed units are reported.
func (r *run) newlyFailed(ctx context.Context) error {
	failed, err := r.Units.Failed(ctx)
	if err != nil {
		return err
	}
	var found []error
	for _, unit := range failed {
		switch {
		case slices.Contains(r.record.Failed, unit):
		case r.record.Ran != nil && !slices.Contains(r.record.Ran, unit):
			// It never ran before, so that the old stack would not make it any better.
			failure := r.Units.Failure(ctx, unit)
			r.noteStart(&agentapi.UnitStart{Unit: unit, WantedBy: string(r.record.Strategy), Error: failure})
			found = append(found, r.unitFailed(failure))
		default:
			found = append(found, fmt.Errorf("%w: %s", ErrHealth, r.Units.Failure(ctx, unit)))
		}
	}
	return errors.Join(found...)
}

// startBack has the old stack started again. That ends the agent, so it returns only when the old stack is not started,
// or when the agent is being stopped.
func (r *run) startBack(ctx context.Context) error {
	if err := r.Records.MarkBad(r.record.To); err != nil {
		r.warn("the record of boots", err)
	}
	// A soft-reboot starts the stack that the journal names. If the journal could not be written, only a reboot leads
	// back.
	ways := []func(context.Context) error{r.Starter.Reboot}
	if r.record.Strategy == SoftReboot && r.NotSwitched == "" && r.record.State == RollingBack {
		ways = []func(context.Context) error{r.Starter.SoftReboot, r.Starter.Reboot}
	}
	var failures []error
	for _, start := range ways {
		err := start(ctx)
		if err == nil {
			err = r.awaitEnd(ctx)
		}
		failures = append(failures, err)
		if r.life.Err() != nil {
			break // the next agent goes on
		}
	}
	return errors.Join(failures...)
}

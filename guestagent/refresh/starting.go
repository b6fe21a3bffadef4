package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// defaultStartLimit bounds how long the old stack takes to end: systemd gives each service 90 s.
	defaultStartLimit = 10 * time.Minute
	// upLimit bounds how long the new one takes to come up.
	upLimit = 10 * time.Minute
)

var (
	// errNotEnded is why a start is given up that systemd, or the host, does not carry out.
	errNotEnded = errors.New("the old stack was not ended in time")
	// errNotUp is why a stack is given up that was started.
	errNotUp = errors.New("the system did not come up")
)

// carryAndStart takes a refresh from verified to where the new stack is being started. The agent that it starts goes on.
func (r *run) carryAndStart(ctx context.Context, v verified) {
	c, err := v.carry()
	if err != nil {
		r.refuse(err) // the journal could not be written, so nothing was done
		return
	}
	s, err := c.act(ctx)
	if err != nil {
		r.fail(ctx, err)
		return
	}
	r.fail(ctx, s.act(ctx))
}

// carry: from here on the running system changes.
func (v verified) carry() (carried, error) {
	if err := v.enter(Carried, nil); err != nil {
		return carried{}, err
	}
	return carried(v), nil
}

// act carries /etc while the old stack still runs, the last moment at which that can be checked.
func (c carried) act(ctx context.Context) (starting, error) {
	again := false
	err := c.timed("etc", func() (err error) {
		again, err = c.carryEtc(ctx)
		return err
	})
	if err != nil {
		return starting{}, err
	}
	if err := c.Records.Trust(c.record.To); err != nil { // whatever became of it before
		return starting{}, err
	}
	err = c.enter(Starting, func(record *Record) { record.LoaderCache, record.Began = again, time.Now().UnixMilli() })
	if err != nil {
		return starting{}, err
	}
	return starting(c), nil
}

// act has the new stack started, by whom the rung says. It returns only if that does not happen, or because it does:
// with the agent's end.
func (s starting) act(ctx context.Context) error {
	var err error
	switch s.record.Strategy {
	case SoftReboot:
		if s.NotSwitched != "" && s.record.Starts > 1 {
			return errors.New(s.NotSwitched)
		}
		err = s.Starter.SoftReboot(ctx)
	case Kexec:
		err = s.kexec(ctx)
	}
	// For Reboot the host has seen the state, and powers the VM off.
	if err == nil {
		err = s.awaitEnd(ctx)
	}
	if s.life.Err() == nil { // else it does end
		err = errors.Join(err, s.Starter.Kexec(ctx, nil, nil, "", release.Stack{}))
	}
	return err
}

// kexec starts the kernel that the host handed over. The kernel is the one that the signed manifest names.
func (s starting) kexec(ctx context.Context) (err error) {
	files, err := s.openKernel()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, files.Close()) }()
	return s.Starter.Kexec(ctx, files.kernel, files.initramfs, s.request.GetCommandLine(), s.record.To)
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

// takeUp goes on with a refresh whose new stack was started, and runs.
func (r *run) takeUp(ctx context.Context) {
	err := r.recallRequest()
	if r.record.Starts > maxStarts {
		err = errors.Join(fmt.Errorf("the agent was started %d times during the refresh", r.record.Starts-1), err)
	}
	state := r.record.State
	err = errors.Join(err, r.enter(state, func(record *Record) { record.Started = true }))
	switch {
	case err != nil:
		r.fail(ctx, err)
	case state == Starting:
		next, err := (starting{r}).started(ctx)
		if err != nil {
			r.fail(ctx, err)
			return
		}
		r.completeChecking(ctx, next)
	default:
		r.completeChecking(ctx, checking{r})
	}
}

// recallRequest brings back what was asked for.
func (r *run) recallRequest() error {
	data, err := r.Records.Request()
	if err != nil {
		return err
	}
	r.request = &agentapi.RefreshRequest{}
	if err := proto.Unmarshal(data, r.request); err != nil {
		return fmt.Errorf("decode the request: %w", err)
	}
	return nil
}

// started waits until the new stack has come up, with no unit failed that had not failed before.
func (s starting) started(ctx context.Context) (checking, error) {
	if err := s.timed("come up", func() error { return s.comeUp(ctx) }); err != nil {
		return checking{}, err
	}
	if s.record.LoaderCache {
		s.renewLoaderCache(ctx)
	}
	// From the end of the old stack's services, at the earliest, to the new one's. The clock may have been set meanwhile.
	took := max(0, time.Now().UnixMilli()-s.record.Began)
	s.note(func(report *agentapi.Report) {
		report.Timings = append(report.Timings, &agentapi.Timing{Step: "start", Micros: took * 1000})
	})
	if err := s.enter(Checking, nil); err != nil {
		return checking{}, err
	}
	return checking(s), nil
}

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
			return errors.Join(fmt.Errorf("%w: systemd is %q", errNotUp, state), r.newlyFailed(context.WithoutCancel(ctx)), err, waiting)
		}
	}
}

// newlyFailed names the units that have failed and had not before, each with what it logged.
func (r *run) newlyFailed(ctx context.Context) error {
	failed, err := r.Units.Failed(ctx)
	if err != nil {
		return err
	}
	var found []error
	for _, unit := range failed {
		if !slices.Contains(r.record.Failed, unit) {
			found = append(found, fmt.Errorf("%w: %s", ErrHealth, r.Units.Failure(ctx, unit)))
		}
	}
	return errors.Join(found...)
}

// startBack has the old stack started again.
func (b rollingOut) startBack() {
	ctx, cancel := context.WithTimeout(b.life, rollbackLimit)
	defer cancel()
	if err := b.Records.Distrust(b.record.To); err != nil {
		b.warn("the record of boots", err)
	}
	// A soft-reboot goes by the journal, so that one which could not be written leaves the machine's own start.
	ways := []func(context.Context) error{b.Starter.Reboot}
	if b.record.Strategy == SoftReboot && b.NotSwitched == "" && b.record.State == RollingBack {
		ways = []func(context.Context) error{b.Starter.SoftReboot, b.Starter.Reboot}
	}
	var failures []error
	for _, start := range ways {
		err := start(ctx)
		if err == nil {
			err = b.awaitEnd(ctx)
		}
		if b.life.Err() != nil {
			b.end() // the next agent goes on
			return
		}
		failures = append(failures, err)
	}
	b.unfinished(errors.Join(failures...))
}

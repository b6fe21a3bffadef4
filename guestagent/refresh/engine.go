package refresh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// refreshLimit bounds a whole refresh, rollbackLimit a whole rollback.
	refreshLimit  = 30 * time.Minute
	rollbackLimit = 20 * time.Minute
	// maxStarts is how many agents may take up one refresh before it is rolled back: one that keeps ending the
	// agent must not go on for ever.
	maxStarts = 3
)

var (
	// ErrBusy means that a refresh, to another target if one was asked for, is in flight.
	ErrBusy = errors.New("a refresh is in flight")
	// ErrStrategy means that the strategy that was asked for is none.
	ErrStrategy = errors.New("a strategy is live, soft_reboot, kexec or reboot")
	// ErrDeferred means that the strategy does not reach what the target needs, so that it runs from the next start on.
	ErrDeferred = errors.New("left to the next power-off and start")
	// ErrUnfinished means that a rollback could not be finished. The next start of the VM finishes it.
	ErrUnfinished = errors.New("the last rollback could not be finished; restart the VM")
	// ErrImpact means that the impact is larger than allowed.
	ErrImpact = errors.New("the impact is larger than allowed")
)

// Engine refreshes one VM, one refresh at a time.
type Engine struct {
	Layers  Layers
	Usr     Usr
	Etc     Etc
	Units   Units
	System  System
	Health  Health
	Starter Starter
	Records Records
	Blobs   Blobs
	// Operators sign releases.
	Operators []ed25519.PublicKey
	// Booted is the stack that the root was assembled from, at boot or at a soft-reboot, and its generation.
	Booted     release.Stack
	Generation uint64
	// Refused names the stacks that were preferred to it at boot, with the reason.
	Refused []string
	// NotSwitched says why the last soft-reboot did not switch to its stack; "" if it did or if none was.
	NotSwitched string
	// Moved reports what the boot did to be at Booted, for a Status without a refresh; nil if it was there already.
	Moved *agentapi.Report
	// Agent is the unit of this program.
	Agent string
	// AtOnce is how many units are restarted at the same time; 0 means one.
	AtOnce int
	// RetryPause is the time between two tries of what must succeed on the way back; 0 means two seconds.
	RetryPause time.Duration
	// StartLimit is how long the old stack may take to end; 0 means ten minutes.
	StartLimit time.Duration

	mutex  sync.Mutex
	record Record
	report *agentapi.Report
	// flight is set while a refresh is in flight.
	flight *flight
	tasks  sync.WaitGroup
	life   context.Context
	// yielded is true while another agent is to take over.
	yielded bool
	// passed is closed when the refresh in flight comes to another state, or ends; nil while nobody waits for that.
	passed chan struct{}
}

// flight is a refresh in flight.
type flight struct{ to release.Stack }

// Status is what the engine knows at a moment.
type Status struct {
	// Stack that runs, and its generation.
	Stack      release.Stack
	Generation uint64
	State      State
	// Report of the refresh in flight or the last one of this boot; nil if there was none.
	Report  *agentapi.Report
	Pending []string
}

// Status never waits for a refresh.
func (e *Engine) Status() (Status, error) {
	kernel, err := e.System.Kernel()
	if err != nil {
		return Status{}, err
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	s := Status{Stack: e.record.Running, Generation: e.record.Generation, State: e.record.State}
	if e.report != nil {
		s.Report, _ = proto.Clone(e.report).(*agentapi.Report)
		// Done is told when all is put away, so that whoever sees it can ask for the next one.
		s.Report.Done = s.Report.GetDone() && e.flight == nil
	}
	if s.Stack.Kernel != "" && s.Stack.Kernel != kernel {
		s.Pending = append(s.Pending, impact.KernelPending(kernel, s.Stack.Kernel))
	}
	if e.record.Damaged != "" {
		s.Pending = append(s.Pending, damage(e.record).Error())
	}
	if s.Report.GetCommitted() {
		for _, pending := range s.Report.GetPending() {
			if !slices.Contains(s.Pending, pending) {
				s.Pending = append(s.Pending, pending)
			}
		}
	}
	return s, nil
}

// Await waits until no refresh is in flight, or one in another state than the one that was seen, or until ctx ends.
func (e *Engine) Await(ctx context.Context, seen agentapi.State) {
	for {
		e.mutex.Lock()
		if e.flight == nil || e.record.State.Message() != seen {
			e.mutex.Unlock()
			return
		}
		if e.passed == nil {
			e.passed = make(chan struct{})
		}
		passed := e.passed
		e.mutex.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-passed:
		}
	}
}

// pass tells those who wait that something has changed. The mutex is held.
func (e *Engine) pass() {
	if e.passed != nil {
		close(e.passed)
		e.passed = nil
	}
}

// Trial reports whether what was booted is on trial: a refresh has started it and judges it, or has found it bad and
// could not go back.
func (e *Engine) Trial() bool {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return (e.flight != nil || e.record.State == RollingBack) && e.Booted.Same(e.record.To)
}

// Start takes up what the journal tells and returns at once; refreshes end when ctx does, and are taken up by the
// next agent. Call Wait afterwards.
func (e *Engine) Start(ctx context.Context) error {
	e.life = ctx
	boot, err := e.System.BootID()
	if err != nil {
		return err
	}
	root, err := e.System.Root()
	if err != nil {
		return err
	}
	record, err := e.Records.Journal()
	switch {
	case errors.Is(err, journal.ErrNone):
		record = Record{State: Idle}
	case errors.Is(err, journal.ErrDamaged):
		return e.startDamaged(boot, root, err)
	case err != nil:
		return err // what cannot be read now may be read by the next agent
	}
	sameBoot := record.BootID == boot && record.Root == root
	if record.State == Idle || record.State == "" {
		if !sameBoot {
			// What happened before is over: what runs was assembled anew.
			record = Record{State: Idle, BootID: boot, Root: root, Running: e.Booted, Generation: e.Generation}
			// All but /etc, where the journal of an earlier refresh was lost.
			if err := e.Etc.End(ctx, e.Booted); err != nil {
				record.Damaged = "what a refresh carried to /etc is left: " + err.Error()
			}
			e.report = e.Moved
		} else {
			e.report = record.ReadReport()
		}
		e.record = record
		return nil
	}
	e.report = record.ReadReport()
	record.Starts++
	record.BootID, record.Root = boot, root
	if !sameBoot {
		record.Running, record.Generation = e.Booted, e.Generation
	}
	e.record = record
	e.flight = &flight{to: record.To}
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		e.resume(sameBoot)
	}()
	return nil
}

// startDamaged begins a new journal in the place of one that is none: an agent that does not start can tell nobody. No
// refresh begins in this boot, since it is not known what an earlier one was at.
func (e *Engine) startDamaged(boot, root string, cause error) error {
	e.record = Record{State: Idle, BootID: boot, Root: root, Running: e.Booted, Generation: e.Generation, Damaged: cause.Error()}
	// What was committed in this boot runs. If that cannot be told either, what was booted is the best that is known.
	if stack, generation, found, err := e.Records.Committed(); err == nil && found && generation > e.Generation {
		e.record.Running, e.record.Generation = stack, generation
	}
	if err := e.Records.SaveJournal(e.record); err != nil {
		e.record.Damaged += "; while beginning a new one: " + err.Error()
	}
	return nil
}

// Wait returns when nothing is in flight any more. End the context of Start before.
func (e *Engine) Wait() { e.tasks.Wait() }

// Assess tells what a move to the target would interrupt now, and changes nothing.
func (e *Engine) Assess(ctx context.Context, request *agentapi.AssessRequest) (*agentapi.Impact, error) {
	defer hurry()()
	strategy, err := strategyOf(request.GetStrategy())
	if err != nil {
		return nil, err
	}
	e.mutex.Lock()
	running := e.record.Running
	e.mutex.Unlock()
	// A downgrade can be assessed: whether it is allowed is asked with the refresh.
	t, err := openTarget(request.GetTarget(), running, e.Operators, true)
	if err != nil {
		return nil, err
	}
	d, err := t.compare(ctx, e.Blobs)
	if err != nil {
		return nil, err
	}
	rung, assessment, err := e.foresee(ctx, d.changes, t.to.stack.Kernel, request.GetPolicy(), strategy)
	if err != nil {
		return nil, err
	}
	return message(rung, assessment), nil
}

// foresee tells which rung a refresh climbs to, and what that means. The plan and the refresh both ask it.
func (e *Engine) foresee(ctx context.Context, changes *impact.Changes, kernel string, policy *agentapi.UnitPolicy, strategy Rung) (Rung, *impact.Assessment, error) {
	running, err := e.System.Kernel()
	if err != nil {
		return "", nil, err
	}
	live, _, err := e.assess(ctx, changes, kernel, policy, nil, false)
	if err != nil {
		return "", nil, err
	}
	in, err := e.Starter.Obstacles(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("assess the impact: %w", err)
	}
	rung, assessment := climb(strategy, live, kernels{running: running, target: kernel}, in)
	return rung, assessment, e.System.Packages(ctx, assessment)
}

// message is an assessment as the host gets it.
func message(rung Rung, a *impact.Assessment) *agentapi.Impact {
	told := a.Message()
	told.Strategy, told.Pending = string(rung), a.Pending
	return told
}

func (e *Engine) assess(ctx context.Context, changes *impact.Changes, kernel string, message *agentapi.UnitPolicy, planned []Planned, swapped bool) (*impact.Assessment, map[string]impact.Unit, error) {
	policy, err := unitPolicy(message)
	if err != nil {
		return nil, nil, err
	}
	running, err := e.System.Kernel()
	if err != nil {
		return nil, nil, err
	}
	names := named(policy)
	for _, p := range planned {
		names = append(names, p.Unit)
	}
	snapshot, err := e.System.Snapshot(ctx, changes, names, swapped)
	if err != nil {
		return nil, nil, fmt.Errorf("assess the impact: %w", err)
	}
	policy.Agent, policy.RunningKernel, policy.TargetKernel, policy.Obstacle = e.Agent, running, kernel, e.System.Obstacle()
	return impact.Assess(changes, snapshot, policy), snapshot.Units, nil
}

// Yield keeps refreshes from beginning, so that another agent can take over, until stay is called. ErrBusy while one
// is in flight.
func (e *Engine) Yield() (stay func(), err error) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.flight != nil {
		return nil, fmt.Errorf("%w: base %s", ErrBusy, e.flight.to.Base)
	}
	e.yielded = true
	return func() {
		e.mutex.Lock()
		defer e.mutex.Unlock()
		e.yielded = false
	}, nil
}

// Refresh begins to move to the target. It returns false if that is in flight already or runs already.
func (e *Engine) Refresh(request *agentapi.RefreshRequest) (started bool, err error) {
	if _, err := strategyOf(request.GetStrategy()); err != nil {
		return false, err
	}
	if _, err := unitPolicy(request.GetPolicy()); err != nil {
		return false, err
	}
	to, err := openSide(request.GetTarget().GetTo(), e.Operators)
	if err != nil {
		return false, fmt.Errorf("target: %w", err)
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.flight != nil {
		if e.flight.to.Same(to.stack) {
			return false, nil
		}
		return false, fmt.Errorf("%w: base %s", ErrBusy, e.flight.to.Base)
	}
	if e.life == nil || e.life.Err() != nil || e.yielded {
		return false, errors.New("the agent is stopping; ask again")
	}
	if e.record.Damaged != "" {
		return false, damage(e.record)
	}
	if e.record.State != Idle {
		return false, fmt.Errorf("%w: %s", ErrUnfinished, e.report.GetError())
	}
	if e.record.Running.Same(to.stack) {
		return false, nil
	}
	e.flight = &flight{to: to.stack}
	e.report = &agentapi.Report{From: agentapi.NewStack(e.record.Running), To: agentapi.NewStack(to.stack), State: agentapi.State_IDLE}
	e.record = Record{
		State: Idle, BootID: e.record.BootID, Root: e.record.Root, Starts: 1, From: e.record.Running, To: to.stack,
		Running: e.record.Running, Generation: e.record.Generation,
	}
	request, _ = proto.Clone(request).(*agentapi.RefreshRequest)
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		e.startRefresh(request)
	}()
	return true, nil
}

// enter journals a state. When it returns nil the state is on the private disk.
func (e *Engine) enter(state State, change func(*Record)) error {
	e.mutex.Lock()
	record := e.record
	record.State = state
	if change != nil {
		change(&record)
	}
	if !e.report.GetDone() {
		e.report.State = state.Message()
	}
	data, err := proto.Marshal(e.report)
	e.mutex.Unlock()
	if err != nil {
		return fmt.Errorf("journal %s: %w", state, err)
	}
	record.Report = data
	if err := e.Records.SaveJournal(record); err != nil {
		return fmt.Errorf("journal %s: %w", state, err)
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.record = record
	e.pass()
	return nil
}

// note changes the report.
func (e *Engine) note(change func(*agentapi.Report)) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	change(e.report)
}

// timed adds the time that a step takes to the report.
func (e *Engine) timed(step string, act func() error) error {
	started := time.Now()
	err := act()
	e.note(func(r *agentapi.Report) {
		r.Timings = append(r.Timings, &agentapi.Timing{Step: step, Micros: time.Since(started).Microseconds()})
	})
	return err
}

// end closes the flight.
func (e *Engine) end() {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.flight = nil
	e.pass()
}

// damage is why no refresh starts in this boot.
func damage(r Record) error { return fmt.Errorf("%w: %s", journal.ErrDamaged, r.Damaged) }

// Message is the state in the form of the agent's API.
func (s Status) Message() agentapi.State { return s.State.Message() }

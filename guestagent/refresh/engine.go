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
	// maxStarts is how many agents may work on one refresh before it is rolled back: a refresh that keeps ending the
	// agent must not go on for ever.
	maxStarts = 3
)

var (
	// ErrBusy means that a refresh is in flight, to another target than the requested one.
	ErrBusy = errors.New("a refresh is in flight")
	// ErrStopping means that this agent ends, or that another one takes over.
	ErrStopping = errors.New("the agent is stopping; ask again")
	// ErrStrategy means that there is no strategy of the requested name.
	ErrStrategy = errors.New("a strategy is live, soft_reboot, kexec or reboot")
	// ErrDeferred means that the target needs more than the strategy allows. It takes effect at the next power-off and
	// start.
	ErrDeferred = errors.New("left to the next power-off and start")
	// ErrUnfinished means that a rollback failed. The next start of the VM completes it.
	ErrUnfinished = errors.New("the last rollback could not be finished; restart the VM")
	// ErrUnreadable means that the VM cannot read a layer of the stack that it runs.
	ErrUnreadable = errors.New("the VM cannot read what it runs from")
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
	Network Network
	Health  Health
	Starter Starter
	Records Records
	Blobs   Blobs
	// Operators are the keys that may sign stacks.
	Operators []ed25519.PublicKey
	// Booted is the stack from which the root was assembled, at boot or by a soft-reboot, and Generation its
	// generation.
	Booted     release.Stack
	Generation uint64
	// Refused are the stacks that were preferred to it at boot, each with the reason why it was not booted.
	Refused []string
	// NotSwitched says why the last soft-reboot did not switch to its stack; "" if it did or if there was none.
	NotSwitched string
	// Moved is the report of a boot that booted another stack than the committed one; nil if it booted the committed
	// one.
	Moved *agentapi.Report
	// Agent is the unit of this program.
	Agent string
	// AtOnce is how many units are restarted at the same time; 0 means one.
	AtOnce int
	// RetryPause is the pause between two tries of a step of a rollback; 0 means two seconds.
	RetryPause time.Duration
	// StartLimit bounds how long the old stack takes to end; 0 means ten minutes.
	StartLimit time.Duration

	mutex  sync.Mutex
	record Record
	report *agentapi.Report
	// behind says why /etc does not belong to the running stack; "" if it does.
	behind string
	// flight is set while a refresh is in flight.
	flight *flight
	tasks  sync.WaitGroup
	life   context.Context
	// yielded is true while another agent is to take over.
	yielded bool
	// changed is closed when the refresh in flight reaches another state, or ends; nil while no caller waits for that.
	changed chan struct{}
}

// flight is a refresh in flight.
type flight struct{ to release.Stack }

// Status is the state of the engine at one moment.
type Status struct {
	// Stack is the running stack, Generation its generation.
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
		// A refresh is done once everything is cleaned up, so that the next one can be requested.
		s.Report.Done = s.Report.GetDone() && e.flight == nil
	}
	if s.Stack.Kernel != "" && s.Stack.Kernel != kernel {
		s.Pending = append(s.Pending, impact.KernelPending(kernel, s.Stack.Kernel))
	}
	if e.record.Damaged != "" {
		s.Pending = append(s.Pending, damage(e.record).Error())
	}
	if e.behind != "" {
		s.Pending = append(s.Pending, e.behind)
	}
	s.Pending = append(s.Pending, impact.BootTexts(e.record.Boot)...)
	if s.Report.GetCommitted() {
		for _, pending := range s.Report.GetPending() {
			if slices.Contains(e.record.Kept, pending) {
				continue // OldCode says whether it is still so
			}
			if !slices.Contains(s.Pending, pending) {
				s.Pending = append(s.Pending, pending)
			}
		}
	}
	return s, nil
}

// Await waits until no refresh is in flight, or one in another state than seen, or until ctx ends.
func (e *Engine) Await(ctx context.Context, seen agentapi.State) {
	for {
		e.mutex.Lock()
		if e.flight == nil || e.record.State.Message() != seen {
			e.mutex.Unlock()
			return
		}
		if e.changed == nil {
			e.changed = make(chan struct{})
		}
		changed := e.changed
		e.mutex.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// wakeWaiters wakes the callers of Await. The caller holds the mutex.
func (e *Engine) wakeWaiters() {
	if e.changed != nil {
		close(e.changed)
		e.changed = nil
	}
}

// Trial reports whether the booted stack is on trial: a refresh has started it and judges it, or has rejected it and
// could not roll back.
func (e *Engine) Trial() bool {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return (e.flight != nil || e.record.State == RollingBack) && e.Booted.Same(e.record.To)
}

// Start goes on with the refresh in the journal, if there is one, and returns at once. When ctx ends, a refresh is left
// to the next agent. Call Wait afterwards.
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
		return err // the next agent may be able to read it
	}
	sameBoot := record.BootID == boot && record.Root == root
	if !sameBoot {
		loadedAnew(&record, boot)
	}
	if record.State == Idle || record.State == "" {
		if !sameBoot {
			// Earlier refreshes are over: the root was assembled again.
			record = Record{State: Idle, BootID: boot, Root: root, Running: e.Booted,
				Generation: e.Generation, Boot: record.Boot}
			// Only /etc may still have to be settled, if the journal of an earlier refresh was lost.
			e.report = e.Moved
			if err := e.Etc.End(ctx, e.Booted); err != nil {
				record.Damaged = "/etc was not settled: " + err.Error()
			} else if err := e.purge(ctx); err != nil {
				e.behind = err.Error()
			}
		} else {
			e.report = record.ReadReport()
		}
		e.record = record
		if sameBoot {
			// An agent of an earlier version may have settled /etc, without a baseline.
			if err := e.Etc.End(ctx, record.Running); err != nil {
				e.behind = "/etc was not settled: " + err.Error()
				return nil
			}
			if err := e.purge(ctx); err != nil {
				e.behind = err.Error()
				return nil
			}
		}
		if e.behind == "" {
			e.noteBehind(record.Running)
		}
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

// loadedAnew forgets the files that the start of this stack has loaded: all of them, or, if it was
// a soft-reboot, those that it loads.
func loadedAnew(record *Record, boot string) {
	if record.BootID != boot {
		record.Boot, record.NextBoot = nil, nil
		return
	}
	record.Boot = impact.Outlasting(record.Boot, agentapi.Level_SOFT_REBOOT)
	record.NextBoot = impact.Outlasting(record.NextBoot, agentapi.Level_SOFT_REBOOT)
}

// startDamaged replaces a damaged journal by a new one, since an agent that did not start could not
// report the damage. No refresh starts in this boot, because nobody knows how far an earlier one got.
func (e *Engine) startDamaged(boot, root string, cause error) error {
	e.record = Record{State: Idle, BootID: boot, Root: root, Running: e.Booted,
		Generation: e.Generation, Damaged: cause.Error()}
	// A stack that was committed in this boot is the running one. If that is unknown, too, assume the booted one.
	if stack, generation, found, err := e.Records.Committed(); err == nil && found && generation > e.Generation {
		e.record.Running, e.record.Generation = stack, generation
	}
	if err := e.Records.SaveJournal(e.record); err != nil {
		e.record.Damaged += "; while starting a new one: " + err.Error()
	}
	return nil
}

// Wait returns when no refresh is in flight any more. End the context of Start before.
func (e *Engine) Wait() { e.tasks.Wait() }

// Assess returns what a refresh to the target would interrupt now. It changes nothing.
func (e *Engine) Assess(ctx context.Context, request *agentapi.AssessRequest) (*agentapi.Impact, error) {
	defer collectLess()()
	strategy, err := strategyOf(request.GetStrategy())
	if err != nil {
		return nil, err
	}
	e.mutex.Lock()
	running := e.record.Running
	e.mutex.Unlock()
	// A downgrade can be assessed. The refresh checks whether it is allowed.
	t, err := openTarget(request.GetTarget(), running, e.Operators, true)
	if err != nil {
		return nil, err
	}
	d, err := t.compare(ctx, e.Blobs)
	if err != nil {
		return nil, err
	}
	if err := t.checkAccounts(ctx, e.Etc, e.Blobs); err != nil {
		return nil, err
	}
	rung, assessment, err := e.assessRung(ctx, d.changes, t.to.stack.Kernel, request.GetPolicy(), strategy)
	if err != nil {
		return nil, err
	}
	found := message(rung, assessment)
	_, found.FailingChecks = healthy(ctx, e.Health, request.GetHealthChecks())
	return found, nil
}

// assessRung returns the rung of a refresh, and what that interrupts. The plan and the refresh both call it.
func (e *Engine) assessRung(ctx context.Context, changes *impact.Changes, kernel string, policy *agentapi.UnitPolicy,
	strategy Rung) (Rung, *impact.Assessment, error) {
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
	if drops := dropsOf(rung, changes.Network()); drops != "" {
		assessment.Reasons = append(assessment.Reasons, drops)
	}
	return rung, assessment, e.System.Packages(ctx, assessment)
}

// message is an assessment in the form of the agent's API.
func message(rung Rung, a *impact.Assessment) *agentapi.Impact {
	impact := a.Message()
	impact.Strategy, impact.Pending = string(rung), a.Pending
	return impact
}

// AssessFiles returns what uses files of this VM that differ, without a move to another stack, and
// what systemd knows of these units.
func (e *Engine) AssessFiles(ctx context.Context, changes *impact.Changes,
	policy *agentapi.UnitPolicy) (*impact.Assessment, map[string]impact.Unit, error) {
	kernel, err := e.System.Kernel()
	if err != nil {
		return nil, nil, err
	}
	return e.assess(ctx, changes, kernel, policy, nil, false)
}

func (e *Engine) assess(ctx context.Context, changes *impact.Changes, kernel string, message *agentapi.UnitPolicy,
	planned []Planned, swapped bool) (*impact.Assessment, map[string]impact.Unit, error) {
	policy, err := unitPolicy(message)
	if err != nil {
		return nil, nil, err
	}
	running, err := e.System.Kernel()
	if err != nil {
		return nil, nil, err
	}
	names := policy.Names()
	for _, p := range planned {
		names = append(names, p.Unit)
	}
	e.mutex.Lock()
	changes.Remember(stillOld(e.record))
	changes.LoadedBefore(e.record.Boot)
	e.mutex.Unlock()
	snapshot, err := e.System.Snapshot(ctx, changes, names, swapped)
	if err != nil {
		return nil, nil, fmt.Errorf("assess the impact: %w", err)
	}
	policy.ByAliases(snapshot.Units, changes)
	policy.Agent, policy.RunningKernel, policy.TargetKernel, policy.Obstacle = e.Agent, running,
		kernel, e.System.Obstacle()
	return impact.Assess(changes, snapshot, policy), snapshot.Units, nil
}

// stillOld returns the interpreted code that comes from earlier stacks.
func stillOld(record Record) []impact.Interpreted {
	return slices.DeleteFunc(slices.Clone(record.Interpreted),
		func(i impact.Interpreted) bool { return record.Running.HasKey(i.Stack) })
}

// OldCode returns the processes that run old code now ("unit pid path"), whichever refresh of this boot brought the new
// one, and what of it waits for a soft-reboot, in words. It compares what they use with what is mounted.
func (e *Engine) OldCode(ctx context.Context) (remaining, pending []string, err error) {
	e.mutex.Lock()
	busy, running := e.flight != nil, e.record.Running
	e.mutex.Unlock()
	swapped, err := e.System.Swapped()
	if err != nil || !swapped || busy {
		return nil, nil, err
	}
	defer collectLess()()
	// What the user's policy leaves alone is known from the last refresh.
	request, err := e.LastRequest()
	if err != nil {
		return nil, nil, err
	}
	a, _, err := e.assess(ctx, impact.NewChanges(), running.Kernel, request.GetPolicy(), nil, true)
	if err != nil {
		return nil, nil, err
	}
	return remainingOf(a), a.Pending, nil
}

// LastRequest returns the request of the last refresh, an empty one if there was none.
func (e *Engine) LastRequest() (*agentapi.RefreshRequest, error) {
	request, _, err := lastRequest(e.Records)
	return request, err
}

func lastRequest(records Records) (request *agentapi.RefreshRequest, found bool, err error) {
	data, err := records.Request()
	if err != nil {
		return nil, false, fmt.Errorf("read the request of the last refresh: %w", err)
	}
	request = &agentapi.RefreshRequest{}
	if err := proto.Unmarshal(data, request); err != nil {
		return nil, false, fmt.Errorf("decode the request of the last refresh: %w", err)
	}
	return request, data != nil, nil
}

// remainingOf returns all processes of an assessment after a swap, in whatever way their units can be renewed.
func remainingOf(a *impact.Assessment) []string {
	remaining := slices.Clone(a.Remaining)
	for _, affected := range a.Affected {
		if affected.KeptBecause == "" { // renewed, and a process of it survived
			for _, pid := range affected.PIDs {
				remaining = append(remaining, fmt.Sprintf("%s %d %s", affected.Unit, pid, affected.FirstUse()))
			}
		}
	}
	slices.Sort(remaining)
	return remaining
}

// Yield keeps refreshes from starting, so that another agent can take over, until stay is called. It returns ErrBusy
// while a refresh is in flight.
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

// Refresh starts a refresh to the target. It returns false if that is in flight already, or the target runs already.
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
		return false, ErrStopping
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
	e.report = &agentapi.Report{From: agentapi.NewStack(e.record.Running), To: agentapi.NewStack(to.stack),
		State: agentapi.State_IDLE}
	e.record = Record{
		State: Idle, BootID: e.record.BootID, Root: e.record.Root, Starts: 1, From: e.record.Running, To: to.stack,
		Running: e.record.Running, Generation: e.record.Generation,
		Interpreted: e.record.Interpreted, Boot: e.record.Boot,
		Revive: revived(e.record, to.stack, request),
	}
	request, _ = proto.Clone(request).(*agentapi.RefreshRequest)
	e.tasks.Add(1)
	go func() {
		defer e.tasks.Done()
		e.startRefresh(request)
	}()
	return true, nil
}

// enter journals a state. Once it has returned nil the state is on the private disk.
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
	e.wakeWaiters()
	return nil
}

// noteBehind records whether /etc belongs to the running stack.
func (e *Engine) noteBehind(running release.Stack) {
	text := ""
	if err := e.Etc.Behind(running); err != nil {
		text = err.Error()
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.behind = text
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

// end ends the refresh in flight.
func (e *Engine) end() {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	e.flight = nil
	e.wakeWaiters()
}

// damage is why no refresh starts in this boot.
func damage(r Record) error { return fmt.Errorf("%w: %s", journal.ErrDamaged, r.Damaged) }

// Message is the state in the form of the agent's API.
func (s Status) Message() agentapi.State { return s.State.Message() }

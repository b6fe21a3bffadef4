// Package rollout brings many VMs to one stack in waves, and stops by itself when VMs do not stay healthy.
//
// What is done is read from the VMs each time, and each move of a VM is recorded with the VM. So a rollout that
// was cut off anywhere goes on where it was when it is started again, and one with another target starts again at
// the first wave. The package knows no Terraform and no libvirt: a [Fleet] does to VMs what a [Rollout] decides.
package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Errors of a Fleet that are no failure of the release.
var (
	// ErrMissing means that there is no such VM.
	ErrMissing = errors.New("there is no such VM")
	// ErrSkipped means that a VM cannot be moved to any target now, and still runs what it ran.
	ErrSkipped = errors.New("the VM is left as it is")
	// ErrSilent means that a VM does not answer, so that it is not known what it runs and whether it serves.
	ErrSilent = errors.New("the VM does not answer")
)

// Errors of a Rollout.
var (
	// ErrHalted means that more VMs of a wave failed than are allowed.
	ErrHalted = errors.New("the rollout has stopped")
	// ErrUnavailable means that as many VMs are unavailable already as may be at a time.
	ErrUnavailable = errors.New("no further VM may be away")
	// ErrApart means that a VM does not take part in rollouts.
	ErrApart = errors.New("a VM does not take part in rollouts")
)

// Condition is what a rollout has to know of a VM.
type Condition int

// Conditions of VMs.
const (
	// Behind: it runs another stack than the target.
	Behind Condition = iota
	// Current: it has the target, and no move is left to judge.
	Current
	// Moved: a rollout has moved it to the target, and has not finished judging the move.
	Moved
	// Silent: it is not known what it runs and whether it serves, so that it can be neither moved nor judged.
	Silent
	// Missing: there is no such VM.
	Missing
	// Apart: it does not take part in rollouts.
	Apart
)

// Sight is a VM at one moment.
type Sight struct {
	Condition Condition
	// Off: it does not run. Moving it changes only its definition, and there is nothing to judge.
	Off bool
	// MovedAt is when a rollout moved it to the target, if the move is not finally judged. A VM
	// that is Silent since then has failed.
	MovedAt time.Time
	// Why explains Silent.
	Why string
}

// Report is what a move has interrupted.
type Report struct {
	// Away is the longest time for which a unit of the VM was unavailable.
	Away time.Duration
	// Off: the VM did not run, and only its definition was moved.
	Off bool
	// Note is what a person should know, such as that the stack takes effect at the next start; "" for nothing.
	Note string
}

// Failure is a health check that failed.
type Failure struct {
	Check string
	// Why is the reason, with what was logged last. It can have several lines, and is the guest's.
	Why string
}

// Fleet is the VMs of a rollout. Its methods are called from several goroutines, each for another VM.
type Fleet interface {
	// Look returns what a VM is like. A VM that does not answer or does not exist is no error.
	Look(ctx context.Context, name string) (Sight, error)
	// Move moves a VM to the target, and returns when the VM has committed it. After an error, the
	// VM runs what it ran before, unless the error matches ErrSilent or says otherwise.
	Move(ctx context.Context, name string) (Report, error)
	// TakeBack moves a VM that a rollout has moved to what it ran before.
	TakeBack(ctx context.Context, name string) error
	// Health makes the health checks of a VM once. The error matches ErrSilent if it does not answer.
	Health(ctx context.Context, name string) ([]Failure, error)
	// Passed records that the move of a VM is final.
	Passed(ctx context.Context, name string) error
}

// Clock is the time.
type Clock interface {
	Now() time.Time
	// Sleep returns after d, or with the context's error.
	Sleep(ctx context.Context, d time.Duration) error
}

// OnFailure is what is done with VMs that a rollout has moved when it stops. A VM that failed is
// taken back in any case.
type OnFailure int

// What can be done.
const (
	// Halt leaves them as they are.
	Halt OnFailure = iota
	// TakeBack takes those of the wave back.
	TakeBack
	// TakeBackAll takes those of all waves back.
	TakeBackAll
)

// Rollout is one rollout to one target.
type Rollout struct {
	Fleet Fleet
	Clock Clock
	// Waves are the names of the VMs. Each wave begins after the one before it has passed.
	Waves [][]string
	// MaxUnavailable is how many VMs may be unavailable at a time: those that are moved, and those that do not answer.
	MaxUnavailable int
	// MaxFailures is how many VMs of a wave may fail without stopping the rollout.
	MaxFailures int
	// Soak is how long a wave has to stay healthy after its last move.
	Soak      time.Duration
	OnFailure OnFailure
	// Slots bounds how many VMs of a host are moved at a time, by all rollouts together; nil if nothing does.
	Slots chan struct{}
	// Tell reports progress, in words for the user.
	Tell func(step string)
}

// State is how far a VM is.
type State string

// States of VMs.
const (
	// Waits: its turn has not come, or it was cut off.
	Waits State = "waiting"
	// Updated: the rollout has moved it.
	Updated State = "updated"
	// Had: it already had the target.
	Had State = "current"
	// Failed: it could not be moved, or did not stay healthy. It runs what it ran before, unless
	// Result.Why says otherwise.
	Failed State = "failed"
	// Returned: it was moved and taken back, because others failed.
	Returned State = "taken_back"
	// Left: it cannot be moved.
	Left State = "skipped"
	// Mute: it does not answer.
	Mute State = "silent"
	// Gone: there is no such VM.
	Gone State = "missing"
)

// Result is what became of one VM.
type Result struct {
	// Wave counts from 1.
	Wave  int
	State State
	// Why explains the state, in words; "" if there is nothing to explain.
	Why string
	// Failed are the health checks that failed.
	Failed []Failure
	// Took is how long the move took; 0 if there was none. Away is how long a unit of the VM was away at most.
	Took, Away time.Duration

	// from is when the VM was moved, if the move is not judged yet.
	from time.Time
	off  bool
}

// Outcome is what became of all VMs, by their names.
type Outcome map[string]*Result

// Complete reports whether each VM has the target.
func (o Outcome) Complete() bool {
	for _, one := range o {
		if one.State != Updated && one.State != Had {
			return false
		}
	}
	return true
}

const (
	// looksAtOnce is how many VMs are asked at a time.
	looksAtOnce = 10
	// maxEvery is the longest time between two health checks of a VM that is judged, and minEvery the shortest.
	maxEvery, minEvery = 10 * time.Second, time.Second
	// strikes is how often in a row a VM has to be unhealthy or silent to have failed.
	strikes = 2
	// backLimit bounds how long VMs are taken back after the context has ended.
	backLimit = time.Minute
)

// run is a Rollout while it runs. One goroutine owns it.
type run struct {
	*Rollout
	outcome Outcome
}

// Run brings the VMs to the target. The outcome is that of all VMs, whatever the error is. The
// error matches ErrHalted if the rollout stopped by itself.
func (r *Rollout) Run(ctx context.Context) (Outcome, error) {
	now := &run{r, Outcome{}}
	if err := now.look(ctx); err != nil {
		return now.outcome, err
	}
	for i := range r.Waves {
		if err := now.wave(ctx, i); err != nil {
			return now.outcome, err
		}
	}
	if r.OnFailure == TakeBackAll {
		return now.outcome, now.pass(ctx, slices.Concat(r.Waves...))
	}
	return now.outcome, nil
}

// each calls do for each name, at most atOnce at a time, and returns when all have returned. The
// calls may not touch the outcome.
func each[T any](ctx context.Context, names []string, atOnce int, do func(ctx context.Context, name string) T) []T {
	found := make([]T, len(names))
	slots := make(chan struct{}, atOnce)
	var calls sync.WaitGroup
	for i, name := range names {
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			found[i] = do(ctx, name)
		})
	}
	calls.Wait()
	return found
}

// look finds out what each VM is like, before anything changes.
func (r *run) look(ctx context.Context) error {
	r.Tell("looking at the VMs")
	var apart []string
	for i, wave := range r.Waves {
		type answer struct {
			sight Sight
			err   error
		}
		for at, found := range each(ctx, wave, looksAtOnce, func(ctx context.Context, name string) answer {
			sight, err := r.Fleet.Look(ctx, name)
			return answer{sight, err}
		}) {
			name := wave[at]
			r.outcome[name] = &Result{Wave: i + 1, State: Waits}
			if found.err != nil {
				return fmt.Errorf("look at VM %q: %w", name, found.err)
			}
			if found.sight.Condition == Apart {
				apart = append(apart, name)
			}
			r.outcome[name].see(found.sight)
		}
	}
	if len(apart) > 0 {
		return fmt.Errorf("%w: %s", ErrApart, few(apart))
	}
	return nil
}

// see sets what follows from what a VM is like.
func (r *Result) see(sight Sight) {
	r.off, r.Why, r.Failed, r.from = sight.Off, "", nil, time.Time{}
	switch sight.Condition {
	case Behind, Apart:
		r.State = Waits
	case Current:
		r.State = Had
	case Moved:
		r.State, r.from = Updated, sight.MovedAt
	case Silent:
		r.State, r.Why = Mute, sight.Why
		if !sight.MovedAt.IsZero() {
			r.Failed = []Failure{{Why: sight.Why}}
		}
	case Missing:
		r.State, r.Why = Gone, ErrMissing.Error()
	}
}

// away counts the VMs that are unavailable because they do not answer.
func (r *run) away() (count int) {
	for _, one := range r.outcome {
		if one.State == Mute {
			count++
		}
	}
	return count
}

// wave moves the VMs of a wave, and judges them.
func (r *run) wave(ctx context.Context, at int) error {
	names := r.Waves[at]
	if err := r.lookAgain(ctx, names); err != nil {
		return err
	}
	stop := r.move(ctx, at)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if stop == nil {
		stop = r.judge(ctx, at)
	}
	var halted *Halted
	switch {
	case errors.As(stop, &halted):
		r.takeBack(ctx, at, halted)
		return stop
	case stop != nil:
		return stop
	case r.OnFailure == TakeBackAll:
		return nil // a later wave may take it back
	}
	return r.pass(ctx, names)
}

// lookAgain looks at VMs that did not answer: they may do so by now.
func (r *run) lookAgain(ctx context.Context, names []string) error {
	for _, name := range names {
		one := r.outcome[name]
		if one.State != Mute {
			continue
		}
		sight, err := r.Fleet.Look(ctx, name)
		if err != nil {
			return fmt.Errorf("look at VM %q: %w", name, err)
		}
		if sight.Condition == Apart {
			return fmt.Errorf("%w: %s", ErrApart, name)
		}
		one.see(sight)
	}
	return nil
}

// moved is the end of a move.
type moved struct {
	name   string
	report Report
	took   time.Duration
	err    error
	// found is what the VM was like, if it was not to be moved any more.
	found *Sight
}

// move moves those VMs of a wave that wait. It returns when none is being moved any more.
func (r *run) move(ctx context.Context, at int) error {
	var waiting []string
	for _, name := range r.Waves[at] {
		if r.outcome[name].State == Waits {
			waiting = append(waiting, name)
		}
	}
	ended := make(chan moved)
	moving, all := 0, len(waiting)
	for {
		failed := r.failures(at)
		stop := ctx.Err() != nil || failed > r.MaxFailures
		for len(waiting) > 0 && !stop && moving < r.MaxUnavailable-r.away() {
			r.Tell(fmt.Sprintf("wave %d of %d: moving VM %q (%d of %d)", at+1, len(r.Waves), waiting[0],
				all-len(waiting)+1, all))
			go func(name string) { ended <- r.moveOne(ctx, name) }(waiting[0])
			waiting = waiting[1:]
			moving++
		}
		if moving == 0 {
			switch {
			case failed > r.MaxFailures:
				return r.halt(at)
			case ctx.Err() != nil, len(waiting) == 0:
				return nil
			}
			return fmt.Errorf("%w: %d do not answer, and max_unavailable is %d: %s", ErrUnavailable, r.away(),
				r.MaxUnavailable, few(r.mute()))
		}
		one := <-ended
		moving--
		r.note(ctx, one)
	}
}

func (r *run) mute() (names []string) {
	for _, name := range slices.Concat(r.Waves...) {
		if r.outcome[name].State == Mute {
			names = append(names, name)
		}
	}
	return names
}

// slot waits until another VM of the host may be moved. Unless it fails, the caller calls free afterwards.
func (r *run) slot(ctx context.Context) (free func(), err error) {
	if r.Slots == nil {
		return func() {}, nil
	}
	select {
	case r.Slots <- struct{}{}:
		return func() { <-r.Slots }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// moveOne moves a VM. It looks at the VM once more before, since its turn may come hours after the rollout has begun.
func (r *run) moveOne(ctx context.Context, name string) moved {
	free, err := r.slot(ctx)
	if err != nil {
		return moved{name: name, err: err}
	}
	defer free()
	sight, err := r.Fleet.Look(ctx, name)
	switch {
	case err != nil:
		return moved{name: name, err: fmt.Errorf("look at it: %w", err)}
	case sight.Condition == Apart:
		return moved{name: name, err: ErrApart}
	case sight.Condition != Behind:
		return moved{name: name, found: &sight}
	}
	began := r.Clock.Now()
	report, err := r.Fleet.Move(ctx, name)
	return moved{name: name, report: report, took: r.Clock.Now().Sub(began), err: err}
}

// note records the result of a move.
func (r *run) note(ctx context.Context, one moved) {
	result := r.outcome[one.name]
	if one.found != nil {
		result.see(*one.found)
		return
	}
	result.Took, result.Away, result.Why, result.off = one.took, one.report.Away, one.report.Note, one.report.Off
	switch {
	case one.err == nil:
		result.State, result.from = Updated, r.Clock.Now()
	case errors.Is(one.err, ErrMissing):
		result.State, result.Why = Gone, one.err.Error()
	case errors.Is(one.err, ErrSkipped):
		result.State, result.Why = Left, one.err.Error()
	case ctx.Err() != nil: // it was cut off, which is no failure; the next run finds out how far it came
		result.State, result.Why = Waits, one.err.Error()
	case errors.Is(one.err, ErrSilent):
		result.State, result.Why = Mute, one.err.Error()
		result.Failed = append(result.Failed, Failure{Why: one.err.Error()})
	default:
		result.State, result.Why = Failed, one.err.Error()
	}
}

// failures counts the VMs of a wave that failed.
func (r *run) failures(at int) (count int) {
	for _, name := range r.Waves[at] {
		if one := r.outcome[name]; one.failed() {
			count++
		}
	}
	return count
}

// failed reports whether a VM failed. One that did not answer before it was moved has not.
func (r *Result) failed() bool { return r.State == Failed || r.State == Mute && len(r.Failed) > 0 }

// judge watches the VMs of a wave that were moved, until all have stayed healthy for long enough.
func (r *run) judge(ctx context.Context, at int) error {
	var judged []string
	var end time.Time
	for _, name := range r.Waves[at] {
		one := r.outcome[name]
		if one.State != Updated || one.off || one.from.IsZero() {
			continue
		}
		judged = append(judged, name)
		if until := one.from.Add(r.Soak); until.After(end) {
			end = until
		}
	}
	every := min(max(r.Soak/10, minEvery), maxEvery)
	struck := map[string]int{}
	for len(judged) > 0 {
		left := end.Sub(r.Clock.Now())
		r.Tell(fmt.Sprintf("wave %d of %d: %d VMs have to stay healthy for %s more", at+1, len(r.Waves), len(judged),
			max(left, 0).Round(time.Second)))
		var failed []string
		var stop error
		for i, found := range each(ctx, judged, looksAtOnce, r.health) {
			name := judged[i]
			switch {
			case found.err != nil && ctx.Err() != nil:
				stop = ctx.Err()
			case found.err != nil && !errors.Is(found.err, ErrSilent) && !errors.Is(found.err, ErrMissing):
				stop = errors.Join(stop, fmt.Errorf("check VM %q: %w", name, found.err))
			case errors.Is(found.err, ErrMissing):
				r.outcome[name].see(Sight{Condition: Missing})
				struck[name] = -1
			case found.err == nil && len(found.failed) == 0:
				delete(struck, name)
			default:
				if struck[name]++; struck[name] == strikes {
					r.unhealthy(name, found)
					failed = append(failed, name)
				}
			}
		}
		judged = slices.DeleteFunc(judged, func(name string) bool { return r.outcome[name].State != Updated })
		r.takeEachBack(ctx, failed)
		switch {
		case r.failures(at) > r.MaxFailures:
			return errors.Join(r.halt(at), stop)
		case stop != nil:
			return stop
		}
		suspect := func(name string) bool { return struck[name] > 0 }
		pause := every
		switch left = end.Sub(r.Clock.Now()); {
		case left <= 0: // only a VM that was not healthy just now is checked once more
			judged = slices.DeleteFunc(judged, func(name string) bool { return !suspect(name) })
		case !slices.ContainsFunc(judged, suspect):
			pause = min(left, every)
		}
		if len(judged) == 0 {
			return nil
		}
		if err := r.Clock.Sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

type health struct {
	failed []Failure
	err    error
}

func (r *run) health(ctx context.Context, name string) health {
	failed, err := r.Fleet.Health(ctx, name)
	return health{failed, err}
}

// unhealthy records that a VM did not stay healthy.
func (r *run) unhealthy(name string, found health) {
	one := r.outcome[name]
	one.Failed = found.failed
	if found.err != nil {
		one.State, one.Why = Mute, found.err.Error()
		one.Failed = []Failure{{Why: found.err.Error()}}
		return
	}
	one.State, one.Why = Failed, "it did not stay healthy"
}

// takeEachBack takes VMs back. One that does not answer stays as it is: the next run looks at it again.
func (r *run) takeEachBack(ctx context.Context, names []string) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return r.outcome[name].State == Mute })
	if len(names) == 0 {
		return
	}
	// Also after an interrupt: a VM that was judged must not stay unhealthy because nobody waited.
	if ctx.Err() != nil {
		var cancel func()
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), backLimit)
		defer cancel()
	}
	for i, err := range each(ctx, names, max(1, r.MaxUnavailable-r.away()),
		func(ctx context.Context, name string) error {
			free, err := r.slot(ctx)
			if err != nil {
				return err
			}
			defer free()
			r.Tell(fmt.Sprintf("taking VM %q back", name))
			return r.Fleet.TakeBack(ctx, name)
		}) {
		one := r.outcome[names[i]]
		switch {
		case err != nil:
			one.State = Failed
			one.Why = strings.TrimPrefix(one.Why+"; it could not be taken back, and has the new release: "+err.Error(),
				"; ")
		case one.State == Updated:
			one.State = Returned
		}
	}
}

// takeBack takes back what a rollout that stops has moved, as far as OnFailure says.
func (r *run) takeBack(ctx context.Context, at int, halted *Halted) {
	first := len(r.Waves)
	switch r.OnFailure {
	case TakeBack:
		first = at
	case TakeBackAll:
		first = 0
	}
	for ; at >= first; at-- { // the last wave first
		var names []string
		for _, name := range r.Waves[at] {
			if one := r.outcome[name]; one.State == Updated && !one.from.IsZero() {
				names = append(names, name)
			}
		}
		r.takeEachBack(ctx, names)
	}
	for name, one := range r.outcome {
		if one.State == Updated {
			halted.Kept = append(halted.Kept, name)
		}
	}
	slices.Sort(halted.Kept)
}

// pass records that the moves of VMs are final.
func (r *run) pass(ctx context.Context, names []string) error {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		one := r.outcome[name]
		return one.State != Updated || one.from.IsZero()
	})
	for i, err := range each(ctx, names, looksAtOnce, r.Fleet.Passed) {
		if err != nil && !errors.Is(err, ErrMissing) {
			return fmt.Errorf("record that VM %q has passed: %w", names[i], err)
		}
	}
	return nil
}

// Halted is the error of a rollout that stopped by itself. It matches ErrHalted.
type Halted struct {
	// Wave counts from 1, of Waves.
	Wave, Waves int
	// Allowed is how many failures a wave may have.
	Allowed int
	// Failed are the VMs of the wave that failed, in their order, and Kept those that have the new release, sorted.
	Failed, Kept []string
}

func (r *run) halt(at int) error {
	halted := &Halted{Wave: at + 1, Waves: len(r.Waves), Allowed: r.MaxFailures}
	for _, name := range r.Waves[at] {
		if r.outcome[name].failed() {
			halted.Failed = append(halted.Failed, name)
		}
	}
	return halted
}

func (h *Halted) Error() string {
	return fmt.Sprintf("%v at wave %d of %d: %d VMs failed, and %d may fail: %s", ErrHalted, h.Wave, h.Waves,
		len(h.Failed), h.Allowed, few(h.Failed))
}

// Is implements the matching of ErrHalted.
func (h *Halted) Is(target error) bool { return target == ErrHalted }

// few lists names, at most 20 of them.
func few(names []string) string {
	const shown = 20
	if more := len(names) - shown; more > 0 {
		return strings.Join(names[:shown], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(names, ", ")
}

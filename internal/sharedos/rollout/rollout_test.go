package rollout_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
)

// clock moves only when somebody sleeps.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return ctx.Err()
}

// machine is a pretended VM.
type machine struct {
	runs, before string
	moved        *time.Time
	off, silent  bool
	gone, apart  bool
	// bad are the releases that it cannot be moved to, and sick those with which it is not healthy.
	bad, sick map[string]error
	// broken is why nobody can find out whether it is healthy.
	broken error
	moves  int
}

// fleet is a pretended fleet. It checks that a rollout keeps its promises.
type fleet struct {
	mu     sync.Mutex
	clock  *clock
	target string
	vms    map[string]*machine
	// log are the operations that changed something.
	log []string
	// away is how many VMs are moved now, and most how many were at a time.
	away, most int
	// step is called at the beginning and at the end of each operation.
	step func(operation, name string)
	gate chan struct{}
}

func newFleet(names ...string) *fleet {
	f := &fleet{clock: &clock{now: time.Unix(1000, 0)}, target: "new", vms: map[string]*machine{}}
	for _, name := range names {
		f.vms[name] = &machine{runs: "old"}
	}
	return f
}

func (f *fleet) at(operation, name string) {
	if f.step != nil {
		f.step(operation, name)
	}
}

func (f *fleet) Look(ctx context.Context, name string) (rollout.Sight, error) {
	f.at("look", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	vm := f.vms[name]
	sight := rollout.Sight{Condition: rollout.Behind, Off: vm != nil && vm.off}
	switch {
	case ctx.Err() != nil:
		return sight, ctx.Err()
	case vm == nil || vm.gone:
		sight.Condition = rollout.Missing
	case vm.apart:
		sight.Condition = rollout.Apart
	case vm.silent:
		sight.Condition, sight.Why = rollout.Silent, "no answer"
		if vm.runs == f.target && vm.moved != nil {
			sight.MovedAt = *vm.moved
		}
	case vm.runs == f.target && vm.moved != nil:
		sight.Condition, sight.MovedAt = rollout.Moved, *vm.moved
	case vm.runs == f.target:
		sight.Condition = rollout.Current
	}
	return sight, nil
}

func (f *fleet) Move(ctx context.Context, name string) (rollout.Report, error) {
	f.at("begin move", name)
	f.mu.Lock()
	vm := f.vms[name]
	if !vm.off {
		f.away++
		f.most = max(f.most, f.away)
	}
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		<-gate
	}
	defer f.at("end move", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !vm.off {
		f.away--
	}
	vm.moves++
	switch {
	case ctx.Err() != nil:
		return rollout.Report{}, ctx.Err()
	case vm.gone:
		return rollout.Report{}, rollout.ErrMissing
	case vm.bad[f.target] != nil:
		return rollout.Report{}, vm.bad[f.target]
	}
	f.log = append(f.log, "move "+name)
	now := f.clock.Now()
	if vm.runs != f.target {
		vm.before, vm.runs = vm.runs, f.target
	}
	vm.moved = &now
	return rollout.Report{Away: time.Second, Off: vm.off}, nil
}

func (f *fleet) TakeBack(ctx context.Context, name string) error {
	f.at("begin back", name)
	defer f.at("end back", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	vm := f.vms[name]
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := vm.bad[vm.before]; err != nil {
		return err
	}
	f.log = append(f.log, "back "+name)
	vm.runs, vm.moved = vm.before, nil
	return nil
}

func (f *fleet) Health(ctx context.Context, name string) ([]rollout.Failure, error) {
	f.at("health", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	vm := f.vms[name]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case vm.gone:
		return nil, rollout.ErrMissing
	case vm.broken != nil:
		return nil, vm.broken
	case vm.silent, vm.off:
		return nil, fmt.Errorf("%w: nothing", rollout.ErrSilent)
	case vm.sick[vm.runs] != nil:
		return []rollout.Failure{{Check: "web", Why: vm.sick[vm.runs].Error()}}, nil
	}
	return nil, nil
}

func (f *fleet) Passed(ctx context.Context, name string) error {
	f.at("begin passed", name)
	defer f.at("end passed", name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.log = append(f.log, "passed "+name)
	f.vms[name].moved = nil
	return nil
}

// rollout has waves of 1, 2 and the others.
func (f *fleet) rollout(t *testing.T) *rollout.Rollout {
	t.Helper()
	waves, err := rollout.Split(slices.Sorted(maps.Keys(f.vms)), []string{"1", "3", "100%"})
	if err != nil {
		t.Fatal(err)
	}
	return &rollout.Rollout{Fleet: f, Clock: f.clock, Waves: waves, MaxUnavailable: 1,
		Soak: 5 * time.Minute, Tell: func(string) {}}
}

// states are the states of all VMs, sorted by their names.
func states(outcome rollout.Outcome) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(outcome)) {
		all = append(all, fmt.Sprintf("%s %s", name, outcome[name].State))
	}
	return all
}

// running are the releases of all VMs, sorted by the names of the VMs.
func (f *fleet) running() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(f.vms)) {
		all = append(all, f.vms[name].runs)
	}
	return strings.Join(all, " ")
}

func TestWavesAreMovedAndJudgedOneAfterTheOther(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	began := f.clock.Now()
	outcome, err := f.rollout(t).Run(t.Context())
	if err != nil || !outcome.Complete() {
		t.Fatal(err, states(outcome))
	}
	want := []string{"move a", "passed a", "move b", "move c", "passed b", "passed c", "move d",
		"move e", "passed d", "passed e"}
	for _, part := range [][]string{f.log[4:6], f.log[8:10]} { // these are recorded at the same time
		slices.Sort(part)
	}
	if diff := cmp.Diff(want, f.log); diff != "" {
		t.Error(diff)
	}
	if took := f.clock.Now().Sub(began); took != 15*time.Minute {
		t.Errorf("three waves that have to stay healthy for 5m took %s", took)
	}
	if f.most != 1 {
		t.Errorf("%d VMs were away at a time", f.most)
	}
	if one := outcome["d"]; one.Wave != 3 || one.Away != time.Second {
		t.Errorf("d: %+v", one)
	}
}

func TestNothingIsLeftToDo(t *testing.T) {
	f := newFleet("a", "b")
	for _, vm := range f.vms {
		vm.runs = "new"
	}
	began := f.clock.Now()
	outcome, err := f.rollout(t).Run(t.Context())
	if err != nil || !outcome.Complete() || len(f.log) > 0 || f.clock.Now() != began {
		t.Errorf("%v, %v, %v, %s", err, states(outcome), f.log, f.clock.Now().Sub(began))
	}
}

var errBad = errors.New("nginx.service has failed")

func TestARolloutStops(t *testing.T) {
	for name, c := range map[string]struct {
		arrange   func(f *fleet, r *rollout.Rollout)
		runs      string
		states    string
		failed    []string
		kept      []string
		untouched string
	}{
		"a canary that rolls back": {
			func(f *fleet, _ *rollout.Rollout) { f.vms["a"].bad = map[string]error{"new": errBad} },
			"old old old old old", "failed waiting waiting waiting waiting", []string{"a"}, nil, "b c d e",
		},
		"a canary that does not stay healthy is taken back": {
			func(f *fleet, _ *rollout.Rollout) { f.vms["a"].sick = map[string]error{"new": errBad} },
			"old old old old old", "failed waiting waiting waiting waiting", []string{"a"}, nil, "b c d e",
		},
		"the second wave stops and keeps what has passed": {
			func(f *fleet, _ *rollout.Rollout) { f.vms["b"].bad = map[string]error{"new": errBad} },
			"new old old old old", "updated failed waiting waiting waiting", []string{"b"}, []string{"a"}, "c d e",
		},
		"others of the wave stay": {
			func(f *fleet, _ *rollout.Rollout) { f.vms["c"].bad = map[string]error{"new": errBad} },
			"new new old old old", "updated updated failed waiting waiting", []string{"c"}, []string{"a", "b"}, "d e",
		},
		"the wave is taken back": {
			func(f *fleet, r *rollout.Rollout) {
				f.vms["c"].bad, r.OnFailure = map[string]error{"new": errBad}, rollout.TakeBack
			},
			"new old old old old", "updated taken_back failed waiting waiting", []string{"c"}, []string{"a"}, "d e",
		},
		"all waves are taken back": {
			func(f *fleet, r *rollout.Rollout) {
				f.vms["e"].sick, r.OnFailure = map[string]error{"new": errBad}, rollout.TakeBackAll
			},
			"old old old old old", "taken_back taken_back taken_back taken_back failed", []string{"e"}, nil, "",
		},
		"more failures than allowed": {
			func(f *fleet, r *rollout.Rollout) {
				r.MaxFailures = 1
				f.vms["b"].bad, f.vms["c"].sick = map[string]error{"new": errBad}, map[string]error{"new": errBad}
			},
			"new old old old old", "updated failed failed waiting waiting", []string{"b", "c"}, []string{"a"}, "d e",
		},
		"a canary that falls silent": {
			func(f *fleet, r *rollout.Rollout) {
				r.MaxUnavailable = 2
				f.step = func(operation, name string) {
					if operation == "end move" {
						f.mu.Lock()
						defer f.mu.Unlock()
						f.vms[name].silent = true
					}
				}
			},
			"new old old old old", "silent waiting waiting waiting waiting", []string{"a"}, nil, "b c d e",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet("a", "b", "c", "d", "e")
			r := f.rollout(t)
			c.arrange(f, r)
			outcome, err := r.Run(t.Context())
			var halted *rollout.Halted
			if !errors.As(err, &halted) || !errors.Is(err, rollout.ErrHalted) {
				t.Fatalf("it ended with %v: %v", err, states(outcome))
			}
			if !slices.Equal(halted.Failed, c.failed) || !slices.Equal(halted.Kept, c.kept) {
				t.Errorf("failed %v, kept %v", halted.Failed, halted.Kept)
			}
			if got := f.running(); got != c.runs {
				t.Errorf("the VMs run %s", got)
			}
			var got []string
			for _, one := range states(outcome) {
				got = append(got, one[2:])
			}
			if strings.Join(got, " ") != c.states {
				t.Errorf("states: %v", got)
			}
			for name := range strings.FieldsSeq(c.untouched) {
				if f.vms[name].moves > 0 {
					t.Errorf("%s was touched", name)
				}
			}
		})
	}
}

func TestTheFailedCheckIsTold(t *testing.T) {
	f := newFleet("a", "b")
	f.vms["a"].sick = map[string]error{"new": errBad}
	outcome, _ := f.rollout(t).Run(t.Context())
	want := []rollout.Failure{{Check: "web", Why: errBad.Error()}}
	if diff := cmp.Diff(want, outcome["a"].Failed); diff != "" {
		t.Error(diff)
	}
}

// One bad look in a row is none.
func TestOneBadHealthCheckIsForgiven(t *testing.T) {
	f := newFleet("a")
	looks := 0
	f.step = func(operation, name string) {
		if operation != "health" {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.vms[name].sick = nil
		if looks++; looks%2 == 1 {
			f.vms[name].sick = map[string]error{"new": errBad}
		}
	}
	r := f.rollout(t)
	r.Soak = 0
	if outcome, err := r.Run(t.Context()); err != nil || !outcome.Complete() || looks != 2 {
		t.Errorf("%v after %d looks: %v", err, looks, states(outcome))
	}
}

func TestFailuresThatAreAllowedDoNotStopIt(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.vms["c"].sick = map[string]error{"new": errBad}
	r := f.rollout(t)
	r.MaxFailures = 1
	outcome, err := r.Run(t.Context())
	if err != nil || outcome.Complete() || f.running() != "new new old new new" {
		t.Errorf("%v: %s, %v", err, f.running(), states(outcome))
	}
}

func TestAMendedReleaseStartsAgainAtTheCanary(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.vms["b"].bad = map[string]error{"new": errBad}
	if _, err := f.rollout(t).Run(t.Context()); !errors.Is(err, rollout.ErrHalted) {
		t.Fatal(err)
	}
	f.target, f.log = "mended", nil
	outcome, err := f.rollout(t).Run(t.Context())
	if err != nil || !outcome.Complete() || f.log[0] != "move a" || f.log[1] != "passed a" {
		t.Errorf("%v, %v, %v", err, states(outcome), f.log)
	}
}

func TestTheNextRunGoesOnWhereItStopped(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.vms["c"].bad = map[string]error{"new": errBad}
	if _, err := f.rollout(t).Run(t.Context()); !errors.Is(err, rollout.ErrHalted) {
		t.Fatal(err)
	}
	f.vms["c"].bad, f.log = nil, nil
	outcome, err := f.rollout(t).Run(t.Context())
	if err != nil || !outcome.Complete() || f.log[0] != "move c" || f.vms["a"].moves != 1 || f.vms["b"].moves != 1 {
		t.Errorf("%v, %v, %v", err, states(outcome), f.log)
	}
	if outcome["a"].State != rollout.Had || outcome["b"].State != rollout.Updated {
		t.Errorf("%v", states(outcome))
	}
}

func TestVMsThatCannotBeMovedAreLeft(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.vms["a"].gone = true
	f.vms["b"].silent = true
	f.vms["c"].off = true
	f.vms["d"].bad = map[string]error{"new": fmt.Errorf("%w: it runs a later release", rollout.ErrSkipped)}
	r := f.rollout(t)
	r.MaxUnavailable = 2
	outcome, err := r.Run(t.Context())
	want := []string{"a missing", "b silent", "c updated", "d skipped", "e updated"}
	if err != nil || outcome.Complete() {
		t.Error(err)
	}
	if diff := cmp.Diff(want, states(outcome)); diff != "" {
		t.Error(diff)
	}
	if f.vms["c"].runs != "new" || f.vms["c"].moved != nil {
		t.Error("the definition of a VM that is off does not have the new release for good")
	}
}

func TestAVMThatAnswersAgainIsMoved(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.vms["e"].silent = true
	f.step = func(operation, name string) {
		if operation == "begin passed" && name == "a" {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.vms["e"].silent = false
		}
	}
	r := f.rollout(t)
	r.MaxUnavailable = 2
	if outcome, err := r.Run(t.Context()); err != nil || !outcome.Complete() {
		t.Error(err, states(outcome))
	}
}

// A VM that does not answer is away, too.
func TestNoMoreVMsAreAwayThanAllowed(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e", "f", "g", "h")
	f.vms["h"].silent = true
	f.gate = make(chan struct{})
	go func() {
		for range 7 {
			time.Sleep(5 * time.Millisecond) // so that all that may be away are
			f.gate <- struct{}{}
		}
	}()
	r := f.rollout(t)
	r.MaxUnavailable = 3
	if outcome, err := r.Run(t.Context()); err != nil || f.most != 2 {
		t.Errorf("%v, %d VMs were moved at a time beside one that does not answer: %v", err, f.most, states(outcome))
	}
	f = newFleet("a", "b")
	f.vms["b"].silent = true
	outcome, err := f.rollout(t).Run(t.Context())
	if !errors.Is(err, rollout.ErrUnavailable) || f.vms["a"].moves > 0 {
		t.Errorf("%v: %v", err, states(outcome))
	}
	if err == nil || !strings.HasSuffix(err.Error(), "1 do not answer, and max_unavailable is 1: b") {
		t.Errorf("the error does not name the VM that does not answer, or names others: %v", err)
	}
}

func TestAHostIsNotOverrun(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e", "f", "g", "h")
	f.gate = make(chan struct{})
	go func() {
		for range 8 {
			time.Sleep(5 * time.Millisecond)
			f.gate <- struct{}{}
		}
	}()
	r := f.rollout(t)
	r.MaxUnavailable, r.Slots = 8, make(chan struct{}, 2)
	if _, err := r.Run(t.Context()); err != nil || f.most != 2 {
		t.Errorf("%v, %d at a time", err, f.most)
	}
}

func TestAVMThatTakesNoPartPreventsAll(t *testing.T) {
	f := newFleet("a", "b")
	f.vms["b"].apart = true
	if _, err := f.rollout(t).Run(t.Context()); !errors.Is(err, rollout.ErrApart) || len(f.log) > 0 {
		t.Errorf("%v, %v", err, f.log)
	}
}

func TestAVMThatCannotBeTakenBackIsTold(t *testing.T) {
	f := newFleet("a")
	f.vms["a"].sick, f.vms["a"].bad = map[string]error{"new": errBad},
		map[string]error{"old": errors.New("the old release is gone")}
	outcome, err := f.rollout(t).Run(t.Context())
	if why := outcome["a"].Why; !errors.Is(err, rollout.ErrHalted) ||
		!strings.Contains(why, "has the new release: the old release is gone") {
		t.Errorf("%v: %q", err, why)
	}
}

// once has something done at the first of an operation on a VM.
func (f *fleet) once(operation, name string, do func(vm *machine)) {
	before := f.step
	done := false
	f.step = func(now, of string) {
		if before != nil {
			before(now, of)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if now == operation && of == name && !done {
			done = true
			do(f.vms[name])
		}
	}
}

// A canary that is silent since it was moved has failed, also in the next run. Once it answers, it is judged.
func TestACanaryThatStaysSilentIsNotPassedBy(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.once("end move", "a", func(vm *machine) { vm.silent = true })
	for run := range 2 {
		r := f.rollout(t)
		r.MaxUnavailable = 3
		if outcome, err := r.Run(t.Context()); !errors.Is(err, rollout.ErrHalted) || f.vms["b"].moves > 0 ||
			outcome["a"].State != rollout.Mute {
			t.Fatalf("run %d: %v, %v", run, err, states(outcome))
		}
	}
	f.vms["a"].silent = false
	if outcome, err := f.rollout(t).Run(t.Context()); err != nil || !outcome.Complete() || f.log[1] != "passed a" {
		t.Errorf("it answers again: %v, %v, %v", err, states(outcome), f.log)
	}
	f.vms["a"].silent, f.target = true, "mended" // what it does since then is not the fault of the next release
	r := f.rollout(t)
	r.MaxUnavailable = 2
	if outcome, err := r.Run(t.Context()); err != nil || outcome["a"].State != rollout.Mute ||
		f.vms["e"].runs != "mended" {
		t.Errorf("the next release: %v, %v", err, states(outcome))
	}
}

// A VM whose checks fail every other time does not hold its wave up, and others do not wait for it.
func TestChecksThatComeAndGoEndAWave(t *testing.T) {
	f := newFleet("a", "b")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	looks := map[string]int{}
	f.step = func(operation, name string) {
		if operation != "health" {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		looks[name]++
		if looks["a"]+looks["b"] > 100 {
			cancel() // the wave does not end
		}
		f.vms[name].sick = nil
		if (looks[name]%2 == 1) == (name == "a") { // never both at a time
			f.vms[name].sick = map[string]error{"new": errBad}
		}
	}
	r := f.rollout(t)
	r.Waves, r.Soak = [][]string{{"a", "b"}}, 0
	outcome, err := r.Run(ctx)
	if err != nil || !outcome.Complete() || looks["a"] != 2 || looks["b"] != 1 {
		t.Errorf("%v after %v looks: %v", err, looks, states(outcome))
	}
}

// What a VM is like counts when its turn comes.
func TestAVMIsLookedAtBeforeItIsMoved(t *testing.T) {
	f := newFleet("a", "b", "c", "d", "e")
	f.vms["e"].off, f.vms["d"].off = true, true
	f.once("begin passed", "a", func(*machine) {
		f.vms["b"].silent = true // it was not moved by then, so that it has not failed
		f.vms["c"].off = true
		f.vms["d"].off = false // it is judged
		f.vms["d"].sick = map[string]error{"new": errBad}
	})
	r := f.rollout(t)
	r.MaxUnavailable, r.MaxFailures = 2, 1
	outcome, err := r.Run(t.Context())
	want := []string{"a updated", "b silent", "c updated", "d failed", "e updated"}
	if err != nil || f.vms["b"].moves > 0 {
		t.Error(err, f.vms["b"].moves)
	}
	if diff := cmp.Diff(want, states(outcome)); diff != "" {
		t.Error(diff)
	}
}

// A VM that failed is taken back also if it is not known at the same time how another one is.
func TestAVMThatFailedIsTakenBackWhateverHappensToOthers(t *testing.T) {
	unknown := errors.New("libvirt does not answer")
	for _, allowed := range []int{0, 1} {
		f := newFleet("a", "b")
		f.vms["b"].sick = map[string]error{"new": errBad}
		looks := 0
		f.step = func(operation, name string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			if operation == "health" && name == "a" {
				if looks++; looks == 2 {
					f.vms["a"].broken = unknown
				}
			}
		}
		r := f.rollout(t)
		r.Waves, r.MaxFailures = [][]string{{"a", "b"}}, allowed
		outcome, err := r.Run(t.Context())
		if !errors.Is(err, unknown) || errors.Is(err, rollout.ErrHalted) != (allowed == 0) ||
			f.running() != "new old" || outcome["b"].State != rollout.Failed {
			t.Errorf("%d may fail: %v, %s, %v", allowed, err, f.running(), states(outcome))
		}
	}
}

func TestAHostIsNotOverrunByTakingBack(t *testing.T) {
	f := newFleet("a", "b", "c", "d")
	f.vms["d"].bad = map[string]error{"new": errBad}
	r := f.rollout(t)
	r.MaxUnavailable, r.Slots, r.OnFailure = 8, make(chan struct{}, 1), rollout.TakeBackAll
	backs := 0
	f.step = func(operation, name string) {
		if operation != "begin back" {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if backs++; len(r.Slots) != 1 {
			t.Errorf("%s is taken back without a slot", name)
		}
	}
	if outcome, err := r.Run(t.Context()); !errors.Is(err, rollout.ErrHalted) || backs != 3 || len(r.Slots) != 0 {
		t.Errorf("%v, %d taken back, %v", err, backs, states(outcome))
	}
}

// Whatever a rollout is doing when it is cut off, the next one brings all VMs to the target, in the order of the waves.
func TestCutOffAnywhereTheNextRunConverges(t *testing.T) {
	for _, onFailure := range []rollout.OnFailure{rollout.Halt, rollout.TakeBackAll} {
		for step := 1; ; step++ {
			f := newFleet("a", "b", "c", "d", "e")
			ctx, cancel := context.WithCancel(t.Context())
			var mu sync.Mutex
			steps := 0
			f.step = func(string, string) {
				mu.Lock()
				defer mu.Unlock()
				if steps++; steps == step {
					cancel()
				}
			}
			r := f.rollout(t)
			r.OnFailure = onFailure
			_, err := r.Run(ctx)
			cancel()
			if err == nil {
				if step < 20 {
					t.Fatalf("only %d steps", step)
				}
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("step %d: %v", step, err)
			}
			f.step = nil
			r = f.rollout(t)
			r.OnFailure = onFailure
			outcome, err := r.Run(t.Context())
			if err != nil || !outcome.Complete() {
				t.Fatalf("cut off at step %d: %v, %v", step, err, states(outcome))
			}
			inOrder(t, f, step)
			for name, vm := range f.vms {
				if vm.moved != nil || vm.runs != "new" || vm.moves > 2 {
					t.Errorf("cut off at step %d: %s is %+v", step, name, vm)
				}
			}
		}
	}
}

// inOrder checks that no VM of a wave was moved before those of the wave before it.
func inOrder(t *testing.T, f *fleet, step int) {
	t.Helper()
	wave := map[string]int{"a": 1, "b": 2, "c": 2, "d": 3, "e": 3}
	at := 0
	for _, entry := range f.log {
		if name, ok := strings.CutPrefix(entry, "move "); ok {
			if wave[name] < at {
				t.Errorf("cut off at step %d: %v", step, f.log)
			}
			at = wave[name]
		}
	}
}

// The same for a rollout of a release that breaks the second wave: nothing is worse than before,
// and the mended release gets everywhere.
func TestCutOffWhileItStops(t *testing.T) {
	for step := 1; ; step++ {
		f := newFleet("a", "b", "c", "d", "e")
		f.vms["b"].sick = map[string]error{"new": errBad}
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		steps := 0
		f.step = func(string, string) {
			mu.Lock()
			defer mu.Unlock()
			if steps++; steps == step {
				cancel()
			}
		}
		r := f.rollout(t)
		r.OnFailure = rollout.TakeBack
		_, err := r.Run(ctx)
		done := ctx.Err() == nil
		cancel()
		if err == nil {
			t.Fatalf("step %d: it did not stop", step)
		}
		f.step = nil
		r = f.rollout(t)
		r.OnFailure = rollout.TakeBack
		outcome, err := r.Run(t.Context())
		if !errors.Is(err, rollout.ErrHalted) || f.running() != "new old old old old" {
			t.Fatalf("cut off at step %d: %v, %s, %v", step, err, f.running(), states(outcome))
		}
		f.target = "mended"
		if outcome, err = f.rollout(t).Run(t.Context()); err != nil || !outcome.Complete() {
			t.Fatalf("cut off at step %d: mended: %v, %v", step, err, states(outcome))
		}
		if done {
			return
		}
	}
}

func TestSplit(t *testing.T) {
	names := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint(i))
		}
		return all
	}
	for _, c := range []struct {
		vms   int
		sizes []string
		want  []int
	}{
		{100, []string{"1", "10%", "50%", "100%"}, []int{1, 9, 40, 50}},
		{5, []string{"1", "10%", "50%", "100%"}, []int{1, 2, 2}},
		{1, []string{"1", "10%", "50%", "100%"}, []int{1}},
		{10, []string{"2", "5"}, []int{2, 3, 5}},
		{3, []string{"5"}, []int{3}},
		{0, []string{"100%"}, nil},
		{3, []string{"1%"}, []int{1, 2}},
	} {
		waves, err := rollout.Split(names(c.vms), c.sizes)
		var got []int
		for _, wave := range waves {
			got = append(got, len(wave))
		}
		if err != nil || !slices.Equal(got, c.want) || !slices.Equal(slices.Concat(waves...), names(c.vms)) {
			t.Errorf("%d VMs in %v: %v, %v", c.vms, c.sizes, waves, err)
		}
	}
	for _, sizes := range [][]string{{}, {"0"}, {"-1"}, {"0%"}, {"101%"}, {"1.5"}, {"x"}, {"01"},
		{"10%", "10%"}, {"5", "4"}} {
		if err := rollout.CheckWaves(sizes); !errors.Is(err, rollout.ErrWaves) {
			t.Errorf("%v: %v", sizes, err)
		}
	}
}

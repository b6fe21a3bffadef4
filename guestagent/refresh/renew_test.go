package refresh

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// hold has an operation wait until the returned function is called, which does something to the world first.
func (w *world) hold(name string) (release func(act func())) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	held := make(chan struct{})
	w.slow, w.held = name, held
	return func(act func()) {
		w.mutex.Lock()
		act()
		w.slow, w.held = "", nil
		w.mutex.Unlock()
		close(held)
	}
}

// did tells whether an operation was done within a time.
func (w *world) did(name string, within time.Duration) bool {
	for end := time.Now().Add(within); ; time.Sleep(time.Millisecond) {
		w.mutex.Lock()
		done := slices.Contains(w.log, name)
		w.mutex.Unlock()
		if done || time.Now().After(end) {
			return done
		}
	}
}

func begin(t *testing.T, w *world, e *Engine) {
	t.Helper()
	w.give("one", "two")
	if started, err := e.Refresh(w.ask("one", "two")); err != nil || !started {
		t.Fatal(started, err)
	}
}

func TestUnitsAreRestartedAtTheSameTimeUnlessOneWaitsForTheOther(t *testing.T) {
	waits := map[string][]string{"b.service": {"a.service"}}
	for name, c := range map[string]struct {
		atOnce int
		after  map[string][]string
		both   bool
	}{
		"one at a time":              {atOnce: 0},
		"two at a time":              {2, nil, true},
		"one waits for the other":    {2, waits, false},
		"as many as may be and wait": {8, waits, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.atOnce, w.after = c.atOnce, c.after
			release := w.hold("restart a.service")
			e, stop := w.engine()
			defer stop()
			begin(t, w, e)
			within := 100 * time.Millisecond // in which it is not to happen
			if c.both {
				within = 10 * time.Second
			}
			if both := w.did("restart b.service", within); both != c.both {
				t.Errorf("while one is restarted the other one is: %v", both)
			}
			release(func() {})
			status := until(t, e)
			if err := w.whole(status); err != nil || !status.Report.GetCommitted() {
				t.Errorf("%v; %v", err, status.Report)
			}
		})
	}
}

// What follows a unit that is planned did not run when the refresh was assessed, and does when /usr is swapped: by a
// health check, for example, that asks a socket. If it does not come back together with that unit, the refresh is not
// committed.
func TestWhatIsStartedBeforeTheSwapIsMissedIfItDoesNotComeBack(t *testing.T) {
	w := newWorld(t)
	release := w.hold("swap")
	e, stop := w.engine()
	defer stop()
	begin(t, w, e)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		// Not fatal: what is held has to be released first.
		if status, err := e.Status(); err != nil || time.Now().After(end) {
			t.Errorf("it does not come to the swap: %s, %v", status.State, err)
		} else if status.State != Swapped {
			continue
		}
		break
	}
	one, two := w.releases["one"].stack.Base, w.releases["two"].stack.Base
	release(func() {
		w.services["f.service"] = one
		w.followers = map[string][]string{"a.service": {"f.service"}}
		w.broken = map[string]tree.Digest{"f.service": two}
	})
	status := until(t, e)
	if status.Report.GetCommitted() || !strings.Contains(status.Report.GetError(), "f.service") {
		t.Errorf("%v", status.Report)
	}
	if err := w.whole(status); err != nil || w.usr != one {
		t.Errorf("the VM runs %s: %v", w.name(w.usr), err)
	}
}

// A small refresh after one that left something on old code does not make that new: what runs is compared with what is
// mounted, whichever refresh brought it.
func TestWhatRunsOldCodeIsReportedUntilItIsTrueNoMore(t *testing.T) {
	w := newWorld(t)
	one := w.releases["one"].stack.Base
	w.release("two+", 3, w.releases["two"])
	w.services["dbus.service"] = one
	e, stop := w.engine()
	says := func(where string, lines []string, want bool) {
		t.Helper()
		if got := strings.Contains(strings.Join(lines, "\n"), "dbus.service"); got != want {
			t.Errorf("%s: %q", where, lines)
		}
	}
	old := func(e *Engine, when string, want bool) {
		t.Helper()
		remaining, pending, err := e.OldCode(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		says(when+": remaining", remaining, want)
		says(when+": pending", pending, want)
	}
	old(e, "before all", false)
	w.give("one", "two")
	report := w.refresh(e, w.ask("one", "two")).Report
	says("the first refresh remains", report.GetRemaining(), true)
	says("the first refresh is pending", report.GetPending(), true)
	old(e, "after the first", true)
	stop()
	e, stop = w.engine() // the agent is restarted
	defer func() { stop() }()
	old(e, "to the next agent", true)

	w.give("two", "two+")
	plan, err := e.Assess(t.Context(), &agentapi.AssessRequest{Target: w.target("two", "two+")})
	if err != nil {
		t.Fatal(err)
	}
	says("the plan remains", plan.GetRemaining(), true)
	says("the plan is pending", plan.GetPending(), true)
	if plan.GetLevel() != agentapi.Level_NONE || len(plan.GetUnits()) != 0 {
		t.Errorf("the plan interrupts %v", plan)
	}
	w.give("two", "two+")
	status := w.refresh(e, w.ask("two", "two+"))
	says("the second refresh remains", status.Report.GetRemaining(), true)
	says("the second refresh is pending", status.Report.GetPending(), true)
	if !status.Report.GetCommitted() || len(status.Report.GetRestarts()) != 0 {
		t.Errorf("%v", status.Report)
	}
	old(e, "after the second", true)
	// It was renewed by somebody.
	w.mutex.Lock()
	w.services["dbus.service"] = w.usr
	w.mutex.Unlock()
	old(e, "when it is renewed", false)
	if status, err = e.Status(); err != nil {
		t.Fatal(err)
	}
	says("the status is pending", status.Pending, false)
}

// If an earlier refresh could not renew a unit, or had to leave it alone, a later one that may renews it.
func TestWhatAnEarlierRefreshLeftIsRenewedWhenThePolicyAllows(t *testing.T) {
	w := newWorld(t)
	w.release("two+", 3, w.releases["two"])
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	request := w.ask("one", "two")
	request.Policy = &agentapi.UnitPolicy{Units: map[string]string{"a.service": "report"}}
	if report := w.refresh(e,
		request).Report; !strings.Contains(strings.Join(report.GetRemaining(), " "), "a.service") {
		t.Errorf("%v", report)
	}
	w.give("two", "two+")
	report := w.refresh(e, w.ask("two", "two+")).Report
	if names := restartedUnits(report); !slices.Equal(names, []string{"a.service"}) || len(report.GetRemaining()) != 0 {
		t.Errorf("restarted were %v, %v remain", names, report.GetRemaining())
	}
	if units := report.GetImpact().GetUnits(); len(units) != 1 ||
		units[0].GetReason() != "it still runs code of an earlier release" {
		t.Errorf("the impact is %v", units)
	}
}

// What is started from the old /usr while units are restarted is found when it is looked again.
func TestWhatIsStartedMeanwhileIsRestartedInTheNextRound(t *testing.T) {
	w := newWorld(t)
	release := w.hold("restart b.service")
	e, stop := w.engine()
	defer stop()
	begin(t, w, e)
	if !w.did("restart a.service", 10*time.Second) { // which comes first, and after the first look
		t.Error("nothing was restarted")
	}
	release(func() { w.services["late.service"] = w.releases["one"].stack.Base })
	status := until(t, e)
	if err := w.whole(status); err != nil || !status.Report.GetCommitted() {
		t.Errorf("%v; %v", err, status.Report)
	}
	restarts := status.Report.GetRestarts()
	if len(restarts) == 0 {
		t.Fatal("restarted was nothing")
	}
	if last := restarts[len(restarts)-1]; last.GetUnit() != "late.service" ||
		last.GetLevel() != agentapi.Level_RESTART {
		t.Errorf("restarted were %v", restarts)
	}
}

// A refresh reads what it stands on: a VM whose base is gone must not end as patched.
func TestARefreshOfAVMThatCannotReadItsBaseIsRefused(t *testing.T) {
	w := newWorld(t)
	one := w.releases["one"].stack
	w.unreadableLayers = map[tree.Digest]error{one.Layers[0].ID: errors.New("input/output error")}
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	status := w.refresh(e, w.ask("one", "two"))
	report := status.Report
	if !report.GetRefused() || report.GetCommitted() || report.GetRefusal() != agentapi.Refusal_REFUSAL_SYSTEM ||
		!strings.Contains(report.GetError(), ErrUnreadable.Error()) ||
		!strings.Contains(report.GetError(), "power the VM off and start it") {
		t.Errorf("%v", report)
	}
	if err := w.whole(status); err != nil || !status.Stack.Same(one) {
		t.Errorf("it runs %v: %v", status.Stack, err)
	}
	// The disk is back.
	w.mutex.Lock()
	w.unreadableLayers = nil
	w.mutex.Unlock()
	w.give("one", "two")
	if status = w.refresh(e, w.ask("one", "two")); !status.Report.GetCommitted() {
		t.Errorf("%v", status.Report)
	}
	matrix.Record(t, "a layer of the running stack cannot be read", "before a refresh",
		"refused with the way out, old, then new")
}

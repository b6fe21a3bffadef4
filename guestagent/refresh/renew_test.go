package refresh

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
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
	if last := restarts[len(restarts)-1]; last.GetUnit() != "late.service" || last.GetLevel() != agentapi.Level_RESTART {
		t.Errorf("restarted were %v", restarts)
	}
}

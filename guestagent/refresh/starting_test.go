package refresh

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

var startingRungs = []Rung{SoftReboot, Kexec, Reboot}

// driven is what drive ends with.
type driven struct {
	engine *Engine
	stop   context.CancelFunc
	status Status
}

// drive has agents follow one another, and the host do its part, until no refresh is in flight. cut is called before
// the agent that follows one which a fault ended.
func (w *world) drive(e *Engine, stop context.CancelFunc, cut func()) driven {
	w.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		e.mutex.Lock()
		flying, record := e.flight != nil, e.record
		e.mutex.Unlock()
		w.mutex.Lock()
		crashed, struck := w.crashed, w.at > 0 && w.count >= w.at && w.fault != failing
		waits := record.State == Starting && record.Strategy == Reboot && !record.Started &&
			w.booted.Base != record.To.Base && !crashed
		if struck {
			w.at = 0
		}
		w.mutex.Unlock()
		switch {
		case crashed || waits:
			stop()
			if waits {
				w.hostStarts(record.To)
			}
			if struck && cut != nil {
				cut()
			}
			e, stop = w.engine()
		case !flying:
			status, err := e.Status()
			if err != nil {
				w.t.Fatal(err)
			}
			return driven{e, stop, status}
		}
	}
	w.t.Fatalf("the refresh does not end: %v; log %v", e.report, w.log)
	return driven{}
}

func (w *world) refreshBy(rung Rung) driven {
	w.t.Helper()
	e, stop := w.engine()
	w.give("one", "two")
	if started, err := e.Refresh(w.askFor(rung)); !started || err != nil {
		w.t.Fatalf("refresh: started %v, %v", started, err)
	}
	return w.drive(e, stop, nil)
}

func TestAStackThatIsStartedIsCommittedOnceItIsHealthy(t *testing.T) {
	for _, rung := range startingRungs {
		t.Run(string(rung), func(t *testing.T) {
			w := newWorld(t)
			boots := w.boot
			d := w.refreshBy(rung)
			defer d.stop()
			report := d.status.Report
			if !report.GetCommitted() || !report.GetDone() || report.GetError() != "" ||
				report.GetStrategy() != string(rung) {
				t.Fatalf("%v", report)
			}
			if d.status.Stack.Base != w.releases["two"].stack.Base || d.status.Generation != 1 {
				t.Errorf("%+v", d.status)
			}
			if err := w.whole(d.status); err != nil {
				t.Error(err)
			}
			if rung == SoftReboot && w.boot != boots || rung != SoftReboot && w.boot != boots+1 {
				t.Errorf("it was booted %d times", w.boot-boots)
			}
			var journal []string
			for _, op := range w.log {
				if state, is := strings.CutPrefix(op, "journal "); is &&
					(len(journal) == 0 || journal[len(journal)-1] != state) {
					journal = append(journal, state)
				}
			}
			if got := strings.Join(journal, " "); got != "staged verified carried starting checking committed idle" {
				t.Errorf("journal: %s", got)
			}
			if n := strings.Count(strings.Join(w.log, "\n"), "restart "); n != 0 {
				t.Errorf("units were restarted, too: %v", w.log)
			}
		})
	}
}

func TestAStackThatIsStartedAndFailsGoesBack(t *testing.T) {
	for _, rung := range startingRungs {
		for name, test := range map[string]struct {
			break_ func(w *world, two tree.Digest)
			text   string
		}{
			"a health check turns bad": {func(w *world, two tree.Digest) { w.unhealthy = two }, "status 500"},
			"a unit fails": {func(w *world, two tree.Digest) {
				w.broken = map[string]tree.Digest{"b.service": two}
			}, "b.service is failed; it logged last: boom"},
			"it ends in maintenance": {func(w *world, two tree.Digest) { w.hopeless = two }, "maintenance"},
		} {
			t.Run(fmt.Sprintf("%s, %s", rung, name), func(t *testing.T) {
				w := newWorld(t)
				test.break_(w, w.releases["two"].stack.Base)
				d := w.refreshBy(rung)
				defer d.stop()
				report := d.status.Report
				if report.GetCommitted() || report.GetRefused() || !report.GetDone() ||
					!strings.Contains(report.GetError(), test.text) {
					t.Errorf("%v", report)
				}
				if d.status.Stack.Base != w.releases["one"].stack.Base {
					t.Errorf("it runs %s", w.name(d.status.Stack.Base))
				}
				if err := w.whole(d.status); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func TestAStackThatDoesNotGetToTheAgentGoesBack(t *testing.T) {
	for _, rung := range []Rung{Kexec, Reboot} {
		t.Run(string(rung), func(t *testing.T) {
			w := newWorld(t)
			w.stuck = w.releases["two"].stack.Base
			d := w.refreshBy(rung)
			defer d.stop()
			if d.status.Report.GetCommitted() || !strings.Contains(d.status.Report.GetError(), errNotStarted.Error()) {
				t.Errorf("%v", d.status.Report)
			}
			if err := w.whole(d.status); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestASoftRebootThatStaysWhereItWasIsUndone(t *testing.T) {
	w := newWorld(t)
	w.stay = "layer x: input/output error"
	d := w.refreshBy(SoftReboot)
	defer d.stop()
	if d.status.Report.GetCommitted() || !strings.Contains(d.status.Report.GetError(), w.stay) {
		t.Errorf("%v", d.status.Report)
	}
	if err := w.whole(d.status); err != nil {
		t.Error(err)
	}
}

func TestWhatASoftRebootCannotGoBackFromTheMachineDoes(t *testing.T) {
	w := newWorld(t)
	w.unhealthy = w.releases["two"].stack.Base
	e, stop := w.engine()
	w.give("one", "two")
	if started, err := e.Refresh(w.askFor(SoftReboot)); !started || err != nil {
		t.Fatalf("refresh: started %v, %v", started, err)
	}
	for {
		w.mutex.Lock()
		switched := w.usr == w.unhealthy
		if switched {
			w.stay = "layer x: input/output error"
		}
		w.mutex.Unlock()
		if switched {
			break
		}
		time.Sleep(time.Millisecond)
	}
	boots := w.boot
	d := w.drive(e, stop, nil)
	defer d.stop()
	if w.boot != boots+1 || d.status.Report.GetCommitted() {
		t.Errorf("%d boots, %v", w.boot-boots, d.status.Report)
	}
	if err := w.whole(d.status); err != nil {
		t.Error(err)
	}
}

func TestAnotherKernelThanTheManifestsIsNotStarted(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	w.give("one", "two")
	request := w.askFor(Kexec)
	request.Kernel = tree.Sum([]byte("initramfs")).String()
	if started, err := e.Refresh(request); !started || err != nil {
		t.Fatalf("refresh: started %v, %v", started, err)
	}
	d := w.drive(e, stop, nil)
	defer d.stop()
	if d.status.Report.GetCommitted() || !strings.Contains(d.status.Report.GetError(), ErrKernel.Error()) {
		t.Errorf("%v", d.status.Report)
	}
	if err := w.whole(d.status); err != nil {
		t.Error(err)
	}
}

// Whatever goes wrong at whichever operation of a start, the VM ends on the old stack or the new one.
func TestOldOrNewWhateverGoesWrongWithAStart(t *testing.T) {
	for _, rung := range startingRungs {
		for _, kind := range kinds {
			for _, sick := range []bool{false, true} {
				step := fmt.Sprintf("%s of a refresh by %s", kind.step, rung)
				if sick {
					step += " that rolls back"
				}
				t.Run(kind.name+" "+step, func(t *testing.T) {
					t.Parallel()
					outcomes := map[string]int{}
					for at := 1; ; at++ {
						outcome, reached := startFaultAt(t, rung, at, kind.fault, kind.powerCut, sick)
						if !reached {
							break
						}
						outcomes[outcome]++
					}
					matrix.Record(t, kind.name, step, told(outcomes))
				})
			}
		}
	}
}

func startFaultAt(t *testing.T, rung Rung, at int, kind fault, powerCut, sick bool) (outcome string, reached bool) {
	t.Helper()
	w := newWorld(t)
	if sick {
		w.hopeless = w.releases["two"].stack.Base
	}
	e, stop := w.engine()
	w.give("one", "two")
	request := w.askFor(rung)
	w.count, w.log, w.at, w.fault = 0, nil, at, kind
	if started, err := e.Refresh(request); !started || err != nil {
		t.Fatalf("%v, %v", started, err)
	}
	var cut func()
	if powerCut {
		cut = w.powerCut
	}
	d := w.drive(e, stop, cut)
	w.mutex.Lock()
	reached, op := w.count >= at, ""
	if reached {
		op = w.log[at-1]
	}
	w.at = 0
	w.mutex.Unlock()
	if err := w.whole(d.status); err != nil {
		// What could not be journalled, or gone back from, the next boot ends.
		d.stop()
		w.powerCut()
		e, stop = w.engine()
		d = w.drive(e, stop, nil)
		if again := w.whole(d.status); again != nil {
			t.Errorf("fault at operation %d, %s: %v; after a boot: %v; report %v; log %v", at, op, err,
				again, d.status.Report, w.log)
		}
	}
	outcome = w.name(w.usr)
	if outcome == "one" {
		w.hopeless = tree.Digest{}
		w.give("one", "two")
		if started, err := d.engine.Refresh(request); !started || err != nil {
			t.Fatalf("fault at operation %d, %s: the next refresh: %v, %v", at, op, started, err)
		}
		d = w.drive(d.engine, d.stop, nil)
		if err := w.whole(d.status); err != nil || !d.status.Report.GetCommitted() {
			t.Errorf("fault at operation %d, %s: the next refresh: %v, %v", at, op, err, d.status.Report)
		}
	}
	d.stop()
	return outcome, reached
}

func TestThePlanAndTheRefreshAgreeOnTheRung(t *testing.T) {
	for _, rung := range append([]Rung{Live}, startingRungs...) {
		w := newWorld(t)
		request := w.askFor(rung)
		e, stop := w.engine()
		w.give("one", "two")
		told, err := e.Assess(t.Context(),
			&agentapi.AssessRequest{Target: request.GetTarget(), Strategy: request.GetStrategy()})
		stop()
		if err != nil {
			t.Fatal(err)
		}
		d := w.refreshBy(rung)
		if told.GetStrategy() != string(rung) || d.status.Report.GetStrategy() != string(rung) ||
			told.GetLevel() != d.status.Report.GetImpact().GetLevel() {
			t.Errorf("%s: the plan tells %v, the refresh %v", rung, told, d.status.Report)
		}
		d.stop()
	}
}

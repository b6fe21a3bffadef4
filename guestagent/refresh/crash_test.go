package refresh

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// blow is what goes wrong in one life of the agent: a fault at the n-th operation that it asks of the system. A power
// cut is an end of the agent after which the VM starts again.
type blow struct {
	at       int
	fault    fault
	powerCut bool
}

func (b blow) String() string {
	name := map[fault]string{failing: "fails", dyingBefore: "dies before", dyingWithin: "dies within",
		dyingAfter: "dies after"}[b.fault]
	if b.powerCut {
		name = strings.Replace(name, "dies", "loses power", 1)
	}
	return fmt.Sprintf("%s operation %d", name, b.at)
}

// The ways in which one thing goes wrong.
var kinds = []struct {
	name, step string
	fault      fault
	powerCut   bool
}{
	{"an operation fails", "each operation", failing, false},
	{"SIGKILL of the agent", "before each operation", dyingBefore, false},
	{"SIGKILL of the agent", "in the middle of each operation", dyingWithin, false},
	{"SIGKILL of the agent", "after each operation", dyingAfter, false},
	{"power cut", "before each operation", dyingBefore, true},
	{"power cut", "in the middle of each operation", dyingWithin, true},
	{"power cut", "after each operation", dyingAfter, true},
}

// Whatever goes wrong at whichever operation, the VM ends on the old stack or the new one, never between, and
// the next refresh ends on the new one.
func TestOldOrNewWhateverGoesWrong(t *testing.T) {
	for _, kind := range kinds {
		for _, sick := range []bool{false, true} {
			step := kind.step + " of a refresh"
			if sick {
				step += " that rolls back"
			}
			t.Run(kind.name+" "+step, func(t *testing.T) {
				t.Parallel()
				outcomes := map[string]int{}
				for atOnce := 1; atOnce <= 2; atOnce++ {
					for at := 1; ; at++ {
						outcome, reached := endure(t, atOnce, sick, blow{at, kind.fault, kind.powerCut})
						if reached == 0 {
							break
						}
						outcomes[outcome]++
					}
				}
				matrix.Record(t, kind.name, step, told(outcomes))
			})
		}
	}
}

// The same when the agent that takes the refresh up is cut off, too, at whichever of its operations.
func TestOldOrNewWhenTheWayOutIsCutOffAsWell(t *testing.T) {
	for _, kind := range []struct {
		name, step    string
		first, second bool
	}{
		{"SIGKILL of the agent", "after each operation, and then of the next agent at each of its own", false, false},
		{"SIGKILL of the agent", "after each operation, and then a power cut at each of the next agent's", false, true},
		{"power cut", "after each operation, and then SIGKILL of the next agent at each of its own", true, false},
		{"power cut", "after each operation, and then another at each of the next agent's", true, true},
	} {
		for _, sick := range []bool{false, true} {
			step := kind.step
			if sick {
				step += ", of a refresh that rolls back"
			}
			t.Run(kind.name+" "+step, func(t *testing.T) {
				t.Parallel()
				outcomes := map[string]int{}
				for atOnce, first := 1, 1; ; first++ {
					enough := false
					for second := 1; !enough; second++ {
						outcome, reached := endure(t, atOnce, sick, blow{first, dyingAfter, kind.first},
							blow{second, dyingWithin, kind.second})
						if reached == 0 && (atOnce == 2 ||
							kind.first) { // what a power cut ended begins again with a boot
							matrix.Record(t, kind.name, step, told(outcomes))
							return
						}
						if reached == 0 { // once more, with two units at the same time
							atOnce, first = 2, 0
							break
						}
						outcomes[outcome]++
						enough = reached < 2
					}
				}
			})
		}
	}
}

// The same for whatever goes wrong in a row. An agent that is ended again and again rolls back in the end.
func TestOldOrNewWhateverGoesWrongInARow(t *testing.T) {
	outcomes := map[string]int{}
	rapid.Check(t, func(drawn *rapid.T) {
		blows := rapid.SliceOfN(rapid.Custom(func(drawn *rapid.T) blow {
			kind := rapid.SampledFrom(kinds).Draw(drawn, "kind")
			return blow{rapid.IntRange(1, 40).Draw(drawn, "operation"), kind.fault, kind.powerCut}
		}), 1, 6).Draw(drawn, "blows")
		atOnce := rapid.IntRange(1, 3).Draw(drawn, "at once")
		outcome, _ := endure(drawn, atOnce, rapid.Bool().Draw(drawn, "sick"), blows...)
		outcomes[outcome]++
	})
	matrix.Record(t, "up to six of these faults in a row", "random operations", told(outcomes))
}

// The journal is lost, too, when the agent ends. The agent reports that the VM has to be started
// again, and after that nothing is left of the refresh.
func TestOldOrNewWhenTheJournalIsLost(t *testing.T) {
	for _, powerCut := range []bool{false, true} {
		name, step := "SIGKILL of the agent and damaged journal", "in the middle of each operation of a refresh"
		if powerCut {
			name = "power cut and damaged journal"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			outcomes := map[string]int{}
			for at := 1; ; at++ {
				w := newWorld(t)
				e, stop := w.engine()
				w.give("one", "two")
				b := blow{at, dyingWithin, powerCut}
				w.expect(b)
				w.refresh(e, w.ask("one", "two"))
				stop()
				if crashed, _ := w.struck(b); !crashed {
					break
				}
				w.expect(blow{})
				w.unreadable = fmt.Errorf("%w: unexpected end of JSON input", journal.ErrDamaged)
				if powerCut {
					w.powerCut()
				}
				e, stop = w.engine()
				if started, err := e.Refresh(w.ask("one", "two")); started ||
					err != nil && !errors.Is(err, journal.ErrDamaged) {
					t.Fatalf("%v: a refresh on top of it: %v, %v", b, started, err)
				}
				stop()
				w.unreadable = nil // a new one was begun
				w.powerCut()
				e, stop = w.engine()
				if err := w.whole(until(t, e)); err != nil {
					t.Fatalf("%v: %v; log %v", b, err, w.log)
				}
				outcome := w.name(w.usr)
				outcomes[outcome]++
				if outcome == "one" {
					w.give("one", "two")
					if again := w.refresh(e, w.ask("one", "two")); !again.Report.GetCommitted() ||
						w.whole(again) != nil {
						t.Fatalf("%v: the next refresh: %v", b, again.Report)
					}
				}
				stop()
			}
			matrix.Record(t, name, step, told(outcomes))
		})
	}
}

// told says on which stacks refreshes ended. Each of them was followed by another one that ended on the new stack.
func told(outcomes map[string]int) string {
	switch names := slices.Sorted(maps.Keys(outcomes)); strings.Join(names, " ") {
	case "one two":
		return "old or new, then new"
	case "one":
		return "old, then new"
	default:
		return fmt.Sprintf("unlikely: %v", outcomes)
	}
}

// endure has the blows strike in one life of the agent after another, beginning with a refresh from one to two; sick
// has that roll back anyway, and as many units as atOnce are restarted at the same time. Then nothing more goes wrong.
// It tells on which release the refresh ended, and how many blows were reached. It fails the test unless the VM ends
// whole, and the next refresh ends on the new release.
func endure(t tester, atOnce int, sick bool, blows ...blow) (outcome string, reached int) {
	t.Helper()
	w := newWorld(t)
	w.atOnce = atOnce
	if sick {
		w.broken = map[string]tree.Digest{"b.service": w.releases["two"].stack.Base}
	}
	network := len(blows) != 2 // with it, all pairs take minutes
	if network {
		w.services[networkd], w.network = w.usr, true
	}
	boot := w.boot
	e, stop := w.engine()
	defer func() { stop() }()
	w.give("one", "two")
	w.expect(blows[0])
	if started, err := e.Refresh(w.ask("one", "two")); !started || err != nil {
		t.Fatalf("%v, %v", started, err)
	}
	status := until(t, e)
	for i, b := range blows {
		crashed, struck := w.struck(b)
		if !struck {
			break
		}
		reached++
		next := blow{}
		if i+1 < len(blows) {
			next = blows[i+1]
		}
		if !crashed && next.at == 0 {
			break
		}
		// After a failure alone the agent lives on; what is to go wrong next finds another one.
		stop()
		if b.powerCut {
			w.powerCut()
		}
		w.expect(next)
		e, stop = w.engine()
		status = until(t, e)
	}
	w.expect(blow{})
	if err := w.whole(status); err != nil {
		// A journal that could not say idle is ended by the next agent, a way back that failed by the next boot.
		stop()
		if status.State == RollingBack {
			w.powerCut()
		}
		e, stop = w.engine()
		if err := w.whole(until(t, e)); err != nil {
			t.Fatalf("%v: %v; report %v; log %v", blows, err, status.Report, w.log)
		}
	}
	outcome = w.name(w.usr)
	told := slices.ContainsFunc(status.Report.GetPending(),
		func(line string) bool { return strings.Contains(line, "network") })
	if network && w.boot == boot && !w.network && !told {
		t.Fatalf("%v: the network has lost what was added by hand; report %v; log %v", blows, status.Report, w.log)
	}
	if outcome == "one" {
		w.broken = nil
		if e.record.Damaged != "" {
			// What an earlier refresh left of /etc could not be put away when the agent started. It says that the VM is
			// to be started again, and takes no refresh before.
			if started, err := e.Refresh(w.ask("one", "two")); started || !errors.Is(err, journal.ErrDamaged) {
				t.Fatalf("%v: a refresh on top of it: %v, %v", blows, started, err)
			}
			stop()
			w.powerCut()
			e, stop = w.engine()
		}
		w.give("one", "two")
		again := w.refresh(e, w.ask("one", "two"))
		if err := w.whole(again); err != nil || !again.Report.GetCommitted() {
			t.Fatalf("%v: the next refresh: %v, %v", blows, err, again.Report)
		}
	}
	return outcome, reached
}

// expect arms a fault for the operations from now on.
func (w *world) expect(b blow) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.count, w.at, w.fault = 0, b.at, b.fault
}

// struck reports whether a blow was reached, and whether it ended the agent.
func (w *world) struck(b blow) (crashed, struck bool) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return w.crashed, b.at > 0 && w.count >= b.at
}

// An /etc that cannot be undone is not forgotten: nothing begins on top of it, and the next agent undoes it.
func TestAnUndoThatFailsIsTriedUntilItIsDone(t *testing.T) {
	for name, powerCut := range map[string]bool{"on the way back": false, "after a power cut": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.broke = "undo etc"
			w.unhealthy = w.releases["two"].stack.Base
			e, stop := w.engine()
			defer func() { stop() }()
			w.give("one", "two")
			status := w.refresh(e, w.ask("one", "two"))
			if powerCut {
				stop()
				w.powerCut()
				e, stop = w.engine()
				status = until(t, e)
			}
			if status.State != RollingBack || !strings.Contains(status.Report.GetError(), "/etc") {
				t.Errorf("it is in state %s and reports %v", status.State, status.Report)
			}
			if started, err := e.Refresh(w.ask("one", "two")); started || !errors.Is(err, ErrUnfinished) {
				t.Errorf("another refresh: started %v, %v", started, err)
			}
			stop()
			w.broke = ""
			e, stop = w.engine()
			if err := w.whole(until(t, e)); err != nil {
				t.Error(err)
			}
		})
	}
}

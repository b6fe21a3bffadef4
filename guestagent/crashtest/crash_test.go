package crashtest

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// The faults of this package, and how a refresh ends.
const (
	killed   = "SIGKILL of the agent"
	powerCut = "power cut"
	oldStack = "old stack"
	newStack = "new stack"
)

// kind is a kind of refresh.
type kind struct {
	// name says what it is, behind what befalls it.
	name string
	// from and to are the releases.
	from, to string
	// sick has its health check fail, so that it rolls back.
	sick bool
	// steps names points in the matrix, each with the suffix.
	steps  map[point]string
	suffix string
	// only has the agent killed at the named steps alone.
	only bool
}

var kinds = []kind{
	{name: "a refresh", from: "one", to: "two", steps: forward},
	{name: "a refresh to an earlier release", from: "two", to: "one", steps: forward, only: true},
	{name: "a refresh that rolls back", from: "one", to: "two", sick: true, steps: back, suffix: ", during the rollback"},
	{name: "a refresh to an earlier release that rolls back", from: "two", to: "one", sick: true, steps: back, only: true},
	{name: "a refresh by soft_reboot", from: "one", to: "three", steps: climbing},
	{name: "a refresh by soft_reboot that rolls back", from: "one", to: "three", sick: true},
}

// point is the n-th time that a point is reached.
type point struct {
	n    int
	name string
}

// forward, back and climbing are the steps that the matrix names: those of a refresh that succeeds, those of its way back,
// and those that only a refresh has which starts the new stack.
var (
	forward = journalled(map[point]string{
		{1, "between the calls of a swap"}:          "between the calls of a swap",
		{1, "after the record of what undoes /etc"}: "after the record of what undoes /etc",
		{3, "before a file below /etc"}:             "between two files below /etc",
		{1, "after the restart of a unit"}:          "after the restart of a unit",
		{1, "before rename committed.json"}:         "before the commit",
		{1, "after rename committed.json"}:          "after the commit",
	}, "staged", "verified", "swapped", "restarted", "checking", "committed", "idle")
	back = journalled(map[point]string{
		{2, "between the calls of a swap"}: "between the calls of a swap",
		{7, "before a file below /etc"}:    "between two files below /etc",
		{3, "after the restart of a unit"}: "after the restart of a unit",
	}, "rolling_back", "idle")
	climbing = journalled(map[point]string{
		{2, "after journal starting"}: "after starting, by the agent that was started",
		{1, "after journal checking"}: "after checking, by the agent that was started",
	}, "carried", "starting")
)

// journalled adds the points before and after each state.
func journalled(steps map[point]string, states ...string) map[point]string {
	for _, state := range states {
		for _, side := range []string{"before", "after"} {
			steps[point{1, side + " journal " + state}] = side + " " + state
		}
	}
	return steps
}

// Whatever the agent has come to when it is killed, and when the power is cut, the VM ends on the old stack or the new one,
// never between; and the next refresh ends on the new one.
func TestOldOrNewAtEveryPoint(t *testing.T) {
	w := newWorld(t)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			passed := w.points(t, k)
			t.Run(killed, func(t *testing.T) { w.killedAtEach(t, k, passed) })
			t.Run(powerCut, func(t *testing.T) { w.cutAtEach(t, k, passed) })
		})
	}
}

// points are those that a refresh of a kind passes when nothing befalls it, in their order.
func (w *world) points(t *testing.T, k kind) []point {
	t.Helper()
	m := w.machine(t, k)
	defer m.end(t)
	answer := m.carryOut(t, w.refresh(t, k))
	if got, want := w.outcome(t, k, answer), map[bool]string{false: newStack, true: oldStack}[k.sick]; got != want {
		t.Fatalf("without a fault it ends on the %s: %+v", got, answer.Result)
	}
	times := map[string]int{}
	var passed []point
	for _, name := range answer.Passed {
		times[name]++
		passed = append(passed, point{times[name], name})
	}
	return passed
}

// machine boots one that runs the release from which a refresh of a kind moves it.
func (w *world) machine(t *testing.T, k kind) *machine {
	t.Helper()
	disk := filepath.Join(t.TempDir(), "disk.img")
	w.disks[k.from].write(t, disk)
	return w.boot(t, disk, "one")
}

// refresh is the order that begins a refresh of a kind.
func (w *world) refresh(t *testing.T, k kind) Order {
	t.Helper()
	return w.move(t, k.from, k.to, func(r *agentapi.RefreshRequest) {
		starting(k.to == "three")(r)
		if k.sick {
			r.HealthChecks = []*agentapi.HealthCheck{{Name: "mark", TimeoutMs: 1, Kind: &agentapi.HealthCheck_Command{
				Command: &agentapi.Command{Argv: []string{"runs", k.from}},
			}}}
		}
	})
}

// outcome is on which stack a refresh ended. It fails the test unless all of the machine is on that one.
func (w *world) outcome(t *testing.T, k kind, answer Answer) string {
	t.Helper()
	switch runs := w.mustBeWhole(t, answer); runs {
	case k.from:
		return oldStack
	case k.to:
		return newStack
	default:
		return runs
	}
}

// mustConverge fails unless the next refresh, which nothing befalls, ends on the new stack.
func (w *world) mustConverge(t *testing.T, k kind, m *machine, outcome string) {
	t.Helper()
	if outcome == newStack {
		return
	}
	k.sick = false
	answer := m.carryOut(t, w.refresh(t, k))
	if got := w.outcome(t, k, answer); got != newStack {
		t.Errorf("the next refresh ends on the %s: %+v", got, answer.Result)
	}
}

// killedAtEach has the agent killed at each point of a refresh, each in a machine of its own.
func (w *world) killedAtEach(t *testing.T, k kind, passed []point) {
	var outcomes []string
	for _, at := range passed {
		label := k.steps[at]
		if k.only && label == "" {
			continue
		}
		t.Run(fmt.Sprintf("%s %d", at.name, at.n), func(t *testing.T) {
			m := w.machine(t, k)
			defer m.end(t)
			order := w.refresh(t, k)
			order.Arm = []string{fmt.Sprintf("%s %d %s", failpoint.Kill, at.n, at.name)}
			answer := m.carryOut(t, order)
			if !slices.Equal(answer.Struck, []string{at.name}) {
				t.Errorf("what struck is %q", answer.Struck)
			}
			outcome := w.outcome(t, k, answer)
			outcomes = append(outcomes, outcome)
			if label != "" && !k.only {
				matrix.Record(t, killed, label+k.suffix, outcome)
			}
			w.mustConverge(t, k, m, outcome)
		})
	}
	where := "at each point of "
	if k.only {
		where = "at each named step of "
	}
	matrix.Record(t, killed, where+k.name, ends(outcomes))
}

// cutAtEach has one refresh stop at each point, and boots what is on the disk there. Points between which the disk stays the
// same are one to a power cut.
func (w *world) cutAtEach(t *testing.T, k kind, passed []point) {
	m := w.machine(t, k)
	defer m.end(t)
	order := w.refresh(t, k)
	for _, at := range passed {
		order.Arm = append(order.Arm, failpoint.Hold+" 1 "+at.name)
	}
	type moment struct {
		points []string
		disk   disk
	}
	var moments []moment
	for answer := m.carryOut(t, order); answer.Held != ""; answer = m.carryOut(t, Order{Continue: true}) {
		on := snapshot(t, m.disk)
		if last := len(moments) - 1; last >= 0 && moments[last].disk.equal(on) {
			moments[last].points = append(moments[last].points, answer.Held)
		} else {
			moments = append(moments, moment{[]string{answer.Held}, on})
		}
	}
	m.end(t)
	t.Logf("%d points leave %d disks", len(passed), len(moments))
	var outcomes []string
	for _, at := range moments {
		t.Run(strings.Join(at.points, ", "), func(t *testing.T) {
			disk := filepath.Join(t.TempDir(), "disk.img")
			at.disk.write(t, disk)
			m := w.boot(t, disk, "one")
			defer m.end(t)
			outcome := w.outcome(t, k, m.carryOut(t, Order{}))
			outcomes = append(outcomes, outcome)
			w.mustConverge(t, k, m, outcome)
		})
	}
	matrix.Record(t, powerCut, "at each point of "+k.name, ends(outcomes))
}

// ends says on what refreshes ended, all of which were followed by another one that ends on the new stack.
func ends(outcomes []string) string {
	has := func(outcome string) bool { return slices.Contains(outcomes, outcome) }
	switch {
	case slices.ContainsFunc(outcomes, func(o string) bool { return o != oldStack && o != newStack }):
		return fmt.Sprintf("another stack: %v", outcomes)
	case has(oldStack) && has(newStack):
		return "old or new, then new"
	case has(oldStack):
		return "old, then new"
	default:
		return fmt.Sprintf("unlikely: %v", outcomes)
	}
}

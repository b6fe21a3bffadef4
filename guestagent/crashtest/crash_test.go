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

// The faults of this package, and the outcomes of a refresh.
const (
	killed   = "SIGKILL of the agent"
	powerCut = "power cut"
	oldStack = "old stack"
	newStack = "new stack"
)

// kind is a kind of refresh, or of the rollback of one.
type kind struct {
	// name is its name in the matrix.
	name string
	// from and to are the releases.
	from, to string
	// rollback makes the health check fail, so that the refresh rolls back. Faults strike during
	// the rollback only: up to it the agent does the same as in a refresh that succeeds.
	rollback bool
	// steps are the names of points in the matrix, to which suffix is added.
	steps  map[point]string
	suffix string
	// named restricts SIGKILL to the points in steps, of which no rows are recorded.
	named bool
	// purge has what the component brought go with it.
	purge bool
	// own is true if the VM does it by itself. The VM was configured with release two when it was started,
	// and the host has moved it to release one since, with which it is configured at the next start.
	own bool
}

// disk is the private disk with which the machine begins, and configured the release that it is configured with then.
func (k kind) disk() (disk, configured string) {
	switch {
	case k.own && k.from == "extra":
		return used, "one"
	case k.own:
		return moved, "two"
	}
	return k.from, "one"
}

var kinds = []kind{
	{name: "a refresh", from: "one", to: "two", steps: forward},
	{name: "a refresh to an earlier release", from: "two", to: "one", steps: forward, named: true},
	{name: "a rollback", from: "one", to: "two", rollback: true, steps: back, suffix: ", during the rollback"},
	{name: "attaching a component", from: "one", to: "extra"},
	{name: "detaching a component", from: "extra", to: "one"},
	{name: "detaching a component with purge", from: "extra", to: "one", purge: true},
	{name: "a rollback of attaching a component", from: "one", to: "extra", rollback: true},
	{name: "a rollback of detaching a component", from: "extra", to: "one", rollback: true},
	{name: "attaching a component by its use", from: "one", to: "extra", own: true},
	{name: "a rollback of attaching a component by its use", from: "one", to: "extra", own: true, rollback: true},
	{name: "removing a component that was attached by its use", from: "extra", to: "one", own: true},
	{name: "a rollback to a later release", from: "two", to: "one", rollback: true, steps: back, named: true},
	{name: "a refresh by soft_reboot", from: "one", to: "three", steps: climbing},
	{name: "a rollback by soft_reboot", from: "one", to: "three", rollback: true},
}

// point is the n-th time that the agent reaches a failpoint.
type point struct {
	n    int
	name string
}

// armed is the line that makes the failpoint act at the point.
func (p point) armed(action string) string { return fmt.Sprintf("%s %d %s", action, p.n, p.name) }

// The steps that have rows of their own in the matrix: forward has those of a refresh that
// succeeds, back those of a rollback, and climbing those that only a refresh by a soft-reboot has.
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
		{11, "before a file below /etc"}:   "between two files below /etc",
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

// Wherever the agent is killed, and wherever the power is cut, the machine ends on the old stack or
// on the new one, never on a mixture, and the next refresh ends on the new one.
func TestOldOrNewAtEveryPoint(t *testing.T) {
	w := newWorld(t)
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			reached := w.points(t, k)
			t.Run(killed, func(t *testing.T) { w.killedAtEach(t, k, reached) })
			t.Run(powerCut, func(t *testing.T) { w.cutAtEach(t, k, reached) })
		})
	}
}

// points returns, in their order, the points that a refresh of a kind reaches if nothing fails: all
// of them, or those of its rollback.
func (w *world) points(t *testing.T, k kind) []point {
	t.Helper()
	m := w.machine(t, k)
	defer m.end(t)
	answer := m.carryOut(t, w.refresh(t, k))
	if got, want := w.outcome(t, k, answer), map[bool]string{false: newStack, true: oldStack}[k.rollback]; got != want {
		t.Fatalf("without a fault it ends on the %s: %+v", got, answer.Result)
	}
	times := map[string]int{}
	var reached []point
	for _, name := range answer.Reached {
		times[name]++
		reached = append(reached, point{times[name], name})
	}
	if !k.rollback {
		return reached
	}
	begins := slices.Index(reached, point{1, "before journal rolling_back"})
	if begins < 0 {
		t.Fatalf("it does not roll back: %v", reached)
	}
	return reached[begins:]
}

// machine boots a machine that runs the release from which a refresh of a kind begins.
func (w *world) machine(t *testing.T, k kind) *machine {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk.img")
	disk, configured := k.disk()
	w.disks[disk].write(t, file)
	return w.boot(t, file, configured)
}

// refresh is the order that begins a refresh of a kind.
func (w *world) refresh(t *testing.T, k kind) Order {
	t.Helper()
	return w.move(t, k.from, k.to, func(r *agentapi.RefreshRequest) {
		starting(k.to == "three")(r)
		r.Purge, r.Own = k.purge, k.own
		if k.rollback {
			r.HealthChecks = []*agentapi.HealthCheck{{Name: "mark", TimeoutMs: 1, Kind: &agentapi.HealthCheck_Command{
				Command: &agentapi.Command{Argv: []string{"runs", k.from}},
			}}}
		}
	})
}

// outcome returns on which stack a refresh ended. It fails the test unless everything in the
// machine belongs to that stack.
func (w *world) outcome(t *testing.T, k kind, answer Answer) string {
	t.Helper()
	switch runs := w.mustBeWhole(t, k, answer); runs {
	case k.from:
		return oldStack
	case k.to:
		return newStack
	default:
		return runs
	}
}

// mustConverge fails the test unless the next refresh ends on the new stack.
func (w *world) mustConverge(t *testing.T, k kind, m *machine, outcome string) {
	t.Helper()
	if outcome == newStack {
		return
	}
	k.rollback = false
	answer := m.carryOut(t, w.refresh(t, k))
	if got := w.outcome(t, k, answer); got != newStack {
		t.Errorf("the next refresh ends on the %s: %+v", got, answer.Result)
	}
}

// killedAtEach kills the agent at each point of a refresh, in one machine for each point.
func (w *world) killedAtEach(t *testing.T, k kind, reached []point) {
	var outcomes []string
	for _, at := range reached {
		step := k.steps[at]
		if k.named && step == "" {
			continue
		}
		t.Run(fmt.Sprintf("%s %d", at.name, at.n), func(t *testing.T) {
			m := w.machine(t, k)
			defer m.end(t)
			order := w.refresh(t, k)
			order.Arm = []string{at.armed(failpoint.Kill)}
			answer := m.carryOut(t, order)
			if !slices.Equal(answer.Triggered, []string{at.name}) {
				t.Errorf("the failpoints that triggered are %q", answer.Triggered)
			}
			outcome := w.outcome(t, k, answer)
			outcomes = append(outcomes, outcome)
			if step != "" && !k.named {
				matrix.Record(t, killed, step+k.suffix, outcome)
			}
			w.mustConverge(t, k, m, outcome)
		})
	}
	where := "at each point of "
	if k.named {
		where = "at each named step of "
	}
	matrix.Record(t, killed, where+k.name, ends(outcomes))
}

// cutAtEach pauses one refresh at each point, copies the private disk there, and boots a machine
// from each copy. Points in a row with the same disk are one power cut.
func (w *world) cutAtEach(t *testing.T, k kind, reached []point) {
	m := w.machine(t, k)
	defer m.end(t)
	order := w.refresh(t, k)
	for _, at := range reached {
		order.Arm = append(order.Arm, at.armed(failpoint.Pause))
	}
	type moment struct {
		points []string
		disk   disk
	}
	var moments []moment
	pauses := 0
	for answer := m.carryOut(t, order); answer.Paused != ""; answer = m.carryOut(t, Order{Continue: true}) {
		pauses++
		on := snapshot(t, m.disk)
		if last := len(moments) - 1; last >= 0 && moments[last].disk.equal(on) {
			moments[last].points = append(moments[last].points, answer.Paused)
		} else {
			moments = append(moments, moment{[]string{answer.Paused}, on})
		}
	}
	m.end(t)
	if pauses != len(reached) {
		t.Errorf("the refresh was paused %d times at %d points", pauses, len(reached))
	}
	t.Logf("%d points leave %d disks", len(reached), len(moments))
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

// ends summarises the outcomes of refreshes for the matrix. Each was followed by a refresh that ended on the new stack.
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

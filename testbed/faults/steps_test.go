package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// step is a point of a refresh: the n-th time that the agent reaches it.
type step struct {
	n     int
	point string
	// name is the step's name in the matrix; "" if it is the point's.
	name string
}

func (s step) String() string {
	if s.name != "" {
		return s.name
	}
	return s.point
}

// armed is the line that has a failpoint act at the step.
func (s step) armed(action string) string { return fmt.Sprintf("%s %d %s", action, s.n, s.point) }

// before and after are the steps around the first record of a state in the journal.
func before(state string) step {
	return step{1, "before journal " + state, "before " + state}
}

func after(state string) step {
	return step{1, "after journal " + state, "after " + state}
}

// moment is one step, or several in a row, at which a refresh leaves the same private disk. What the steps in between
// change is in memory, which a power cut clears.
type moment []step

func (m moment) String() string {
	names := make([]string, len(m))
	for i, at := range m {
		names[i] = at.String()
	}
	return strings.Join(names, ", ")
}

// last is the step of the moment that goes farthest.
func (m moment) last() step { return m[len(m)-1] }

// The moments of a refresh, in their order: forward has those of one that succeeds, back those of
// the rollback of one whose health check fails, and climbing those that only a refresh by a
// soft-reboot has. The agent of the new stack records starting once more.
var (
	forward = []moment{
		{before("staged")},
		{after("staged"), before("verified")},
		{after("verified"), before("swapped")},
		{after("swapped"), {1, "between the calls of a swap", ""}},
		{{1, "after the record of what undoes /etc", ""}},
		{{3, "before a file below /etc", "between two files below /etc"}},
		{before("restarted")},
		{after("restarted")},
		{{1, "after the restart of a unit", ""}, before("checking")},
		{after("checking"), before("committed")},
		{after("committed")},
		{{1, "before rename committed.json", "before the commit"}},
		{{1, "after rename committed.json", "after the commit"}},
		{before("idle")},
		{after("idle")},
	}
	back = []moment{
		{before("rolling_back")},
		{after("rolling_back"), {2, "between the calls of a swap", ""}},
		{{6, "before a file below /etc", "between two files below /etc"}},
		{{2, "after the restart of a unit", ""}, before("idle")},
		{after("idle")},
	}
	climbing = []moment{
		{before("carried")},
		{after("carried")},
		{before("starting")},
		{after("starting")},
		{{2, "after journal starting", "after starting, by the agent that was started"}},
		{{1, "after journal checking", "after checking, by the agent that was started"}},
	}
)

// kill is the fault that a SIGKILL of the agent is in the matrix.
const kill = "SIGKILL of the agent"

// killed kills the agent at the last step of each of these moments, all in one refresh. It returns
// on which stack that ends.
func (s *subject) killed(t *testing.T, rollsBack bool, moments ...moment) (outcome string) {
	names := make([]string, len(moments))
	for i, m := range moments {
		names[i] = m.String()
	}
	t.Run(kill+" "+strings.Join(names, "; "), func(t *testing.T) {
		var points, armed []string
		for _, m := range moments {
			points = append(points, m.last().point)
			armed = append(armed, m.last().armed(failpoint.Kill))
		}
		s.arm(t, armed...)
		s.start(t, rollsBack)
		var triggered []string
		if outcome, triggered = s.ended(t); !slices.Equal(triggered, points) {
			t.Errorf("the failpoints that triggered are %q, want %q", triggered, points)
		}
		for _, m := range moments {
			matrix.Record(t, kill, label(m, rollsBack), outcome)
		}
	})
	return outcome
}

// stopped is a copy of the private disk as a moment of a refresh left it.
type stopped struct {
	moment moment
	disk   string
}

// copyAtEach runs one refresh, stops it at every step, and copies the private disk at the last step of each moment.
// It fails the test if the steps come in another order, if two moments have the same disk, if the disk changes
// within a moment, or if the journal has a step that no moment names. The caller sees how the refresh ends.
//
// Two disks count as the same if a boot reads the same from both: the journal, all other records of
// the agent, and /etc.
func (s *subject) copyAtEach(t *testing.T, moments []moment, rollsBack bool) []stopped {
	t.Helper()
	steps := slices.Concat(moments...)
	armed := make([]string, len(steps))
	for i, at := range steps {
		armed[i] = at.armed(failpoint.Pause)
	}
	s.arm(t, armed...)
	s.listReached(t)
	s.start(t, rollsBack)
	var copies []stopped
	previous := ""
	for _, m := range moments {
		for i, at := range m {
			s.awaitTriggered(t)
			if i == len(m)-1 {
				copies = append(copies, stopped{m, s.copyDisk(t)})
			}
			point, disk, _ := strings.Cut(s.run(t, fmt.Sprintf(`cat %[1]s/%[2]s
cd /run/sharedos/private/sharedos && find . -type f -exec sha256sum {} + | sort -k2
cd /etc && find . -mindepth 1 ! -name .pwd.lock -printf '%%P %%y %%m %%i %%s %%T@ %%C@ %%l\n' | sort
rm %[1]s/%[2]s`, failpoint.Directory, failpoint.Triggered)), "\n")
			if point != at.point {
				t.Fatalf("the refresh stopped at %q, want %q", point, at.point)
			}
			if same := disk == previous; same != (i > 0) {
				t.Errorf("at %s the private disk is the same as before: %v", at, same)
			}
			previous = disk
		}
	}
	return copies
}

// boots boots the copies one after the other, each as a power cut at its moment leaves the VM,
// which ran the release from. If followed is true, one copy of each kind is followed by a refresh.
//
// The kind is what the next refresh begins with: all that look describes, which ended compares, and
// the records that say which stack is committed, which boots are counted and which carry of /etc can
// be taken back. The journal is idle then, and its report of the past is replaced. So a refresh after
// another copy of the kind would do the same. Package crashtest follows every power cut by a refresh.
func (s *subject) boots(t *testing.T, copies []stopped, from tree.Digest, rollsBack, followed bool) {
	const fault = "power cut"
	kinds := map[string]bool{}
	for _, at := range copies {
		t.Run(fault+" "+label(at.moment, rollsBack), func(t *testing.T) {
			if err := s.CutPower(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.putDisk(t, at.disk)
			s.at = from
			if _, err := s.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			outcome, _ := s.ended(t)
			matrix.Record(t, fault, label(at.moment, rollsBack), outcome)
			if kind := s.kind(t); followed && !kinds[kind] {
				kinds[kind] = true
				s.converge(t, outcome)
			}
		})
	}
	t.Logf("%d copies are of %d kinds", len(copies), len(kinds))
}

func (s *subject) start(t *testing.T, rollsBack bool) {
	t.Helper()
	if rollsBack {
		s.run(t, "rm -rf "+goodOnce)
		s.begin(t, s.badThere())
	} else {
		s.begin(t)
	}
}

func label(at fmt.Stringer, rollsBack bool) string {
	if rollsBack {
		return at.String() + ", during the rollback"
	}
	return at.String()
}

// listReached begins a list of the failpoints that are reached from now on.
func (s *subject) listReached(t *testing.T) {
	t.Helper()
	s.run(t, fmt.Sprintf("mkdir -p %s && touch %[1]s/%s", failpoint.Directory, failpoint.Reached))
}

// mustKnow ends that list. It fails the test unless every failpoint around a record of the journal
// is a step of the moments, or of forward.
func (s *subject) mustKnow(t *testing.T, moments ...moment) {
	t.Helper()
	reached := s.run(t, fmt.Sprintf("cd %s && cat %s && rm %[2]s", failpoint.Directory, failpoint.Reached))
	steps := slices.Concat(append(slices.Clone(forward), moments...)...)
	for point := range strings.Lines(reached) {
		point = strings.TrimSuffix(point, "\n")
		known := slices.ContainsFunc(steps, func(s step) bool { return s.point == point })
		if strings.Contains(point, " journal ") && !known {
			t.Errorf("no fault is tried at %q", point)
		}
	}
}

package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// step is a point of a refresh: the n-th time that it is reached.
type step struct {
	n     int
	point string
	// rest names it in the matrix, for a point that is reached more than once.
	name string
}

func (s step) String() string {
	if s.name != "" {
		return s.name
	}
	return s.point
}

// forward are the steps of a refresh that succeeds, back those of the way back of one whose health check fails.
var (
	forward = append(journalled("staged", "verified", "swapped", "restarted", "checking", "committed", "idle"),
		step{1, "between the calls of a swap", ""},
		step{1, "after the record of what undoes /etc", ""},
		step{3, "before a file below /etc", "between two files below /etc"},
		step{1, "after the restart of a unit", ""},
		step{1, "before rename committed.json", "before the commit"},
		step{1, "after rename committed.json", "after the commit"},
	)
	back = append(journalled("rolling_back", "idle"),
		step{2, "between the calls of a swap", ""},
		step{6, "before a file below /etc", "between two files below /etc"},
		step{2, "after the restart of a unit", ""},
	)
	// climbing are those that only a refresh has which starts the new stack, by a soft-reboot here. Its journal says starting
	// once more when the agent of the new stack takes it up.
	climbing = append(journalled("carried", "starting"),
		step{2, "after journal starting", "after starting, by the agent that was started"},
		step{1, "after journal checking", "after checking, by the agent that was started"},
	)
)

// journalled are the points before and after each state.
func journalled(states ...string) []step {
	var steps []step
	for _, state := range states {
		steps = append(steps, step{1, "before journal " + state, "before " + state}, step{1, "after journal " + state, "after " + state})
	}
	return steps
}

// killed has the agent killed at a step.
func (s *subject) killed(t *testing.T, at step, goesBack bool) {
	fault := "SIGKILL of the agent"
	t.Run(fault+" "+label(at, goesBack), func(t *testing.T) {
		s.arm(t, fmt.Sprintf("%s %d %s", failpoint.Kill, at.n, at.point))
		s.start(t, goesBack)
		outcome, struck := s.ended(t)
		if !slices.Equal(struck, []string{at.point}) {
			t.Errorf("what struck is %q", struck)
		}
		matrix.Record(t, fault, label(at, goesBack), outcome)
		s.converge(t, outcome)
	})
}

// moment is a step of a refresh at which it leaves a disk of its own to a power cut, or several in a row that leave the same.
type moment []step

func (m moment) String() string {
	names := make([]string, len(m))
	for i, at := range m {
		names[i] = at.String()
	}
	return strings.Join(names, ", ")
}

// moments has a refresh stop at every step, and puts together those between which nothing is written that a boot goes by: the
// journal and all else that the agent keeps on the private disk, and what lies over /etc. What the steps between have done
// is in memory alone, which a power cut takes, so that one cut tries them all.
func (s *subject) moments(t *testing.T, steps []step, goesBack bool) []moment {
	t.Helper()
	points := make([]string, len(steps))
	for i, at := range steps {
		points[i] = fmt.Sprintf("%s %d %s", failpoint.Hold, at.n, at.point)
	}
	s.arm(t, points...)
	s.start(t, goesBack)
	var found []moment
	before := ""
	for range steps {
		s.held(t)
		point, disk, _ := strings.Cut(s.run(t, fmt.Sprintf(`cat %[1]s/%[2]s
cd /run/sharedos/private/sharedos && find . -type f -exec sha256sum {} + | sort -k2
cd /etc && find . -mindepth 1 ! -name .pwd.lock -printf '%%P %%y %%m %%i %%s %%T@ %%C@ %%l\n' | sort
rm %[1]s/%[2]s`, failpoint.Directory, failpoint.Struck)), "\n")
		i := slices.IndexFunc(steps, func(at step) bool { return at.point == point })
		switch {
		case i < 0:
			t.Fatalf("it stopped at %q", point)
		case disk == before:
			found[len(found)-1] = append(found[len(found)-1], steps[i])
		default:
			found = append(found, moment{steps[i]})
		}
		before = disk
	}
	s.ended(t)
	t.Logf("the private disk is another one at each of %q", found)
	return found
}

// cut has the power cut at a moment. Then the VM refreshes, unless what follows has it do so.
func (s *subject) cut(t *testing.T, during moment, goesBack, followed bool) {
	fault, at := "power cut", during[len(during)-1]
	t.Run(fault+" "+label(during, goesBack), func(t *testing.T) {
		s.arm(t, fmt.Sprintf("%s %d %s", failpoint.Hold, at.n, at.point))
		s.start(t, goesBack)
		s.held(t)
		if err := s.CutPower(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		outcome, _ := s.ended(t)
		matrix.Record(t, fault, label(during, goesBack), outcome)
		if !followed {
			s.converge(t, outcome)
		}
	})
}

func (s *subject) start(t *testing.T, goesBack bool) {
	t.Helper()
	if goesBack {
		s.begin(t, s.badThere())
	} else {
		s.begin(t)
	}
}

func label(at fmt.Stringer, goesBack bool) string {
	if goesBack {
		return at.String() + ", during the rollback"
	}
	return at.String()
}

// covers fails unless the steps have every journalled point that a refresh reaches.
func (s *subject) covers(t *testing.T, steps []step, goesBack bool) {
	t.Helper()
	s.passes(t)
	s.start(t, goesBack)
	outcome, _ := s.ended(t)
	if want := map[bool]string{false: newStack, true: oldStack}[goesBack]; outcome != want {
		t.Fatalf("without a fault it ends on the %s", outcome)
	}
	s.mustKnow(t, steps)
}

// passes has the points that are reached listed from now on.
func (s *subject) passes(t *testing.T) {
	t.Helper()
	s.run(t, fmt.Sprintf("mkdir -p %s && touch %[1]s/%s", failpoint.Directory, failpoint.Passed))
}

// mustKnow ends that, and fails unless the steps have every journalled point that was reached.
func (s *subject) mustKnow(t *testing.T, steps []step) {
	t.Helper()
	passed := s.run(t, fmt.Sprintf("cd %s && cat %s && rm %[2]s", failpoint.Directory, failpoint.Passed))
	for point := range strings.Lines(passed) {
		point = strings.TrimSuffix(point, "\n")
		known := slices.ContainsFunc(append(slices.Clone(forward), steps...), func(s step) bool { return s.point == point })
		if strings.Contains(point, " journal ") && !known {
			t.Errorf("a refresh passes %q, and no fault is tried there", point)
		}
	}
}

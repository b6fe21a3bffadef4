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

// cut has the power cut at a step.
func (s *subject) cut(t *testing.T, at step, goesBack bool) {
	fault := "power cut"
	t.Run(fault+" "+label(at, goesBack), func(t *testing.T) {
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
		matrix.Record(t, fault, label(at, goesBack), outcome)
		s.converge(t, outcome)
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

func label(at step, goesBack bool) string {
	if goesBack {
		return at.String() + ", on the way back"
	}
	return at.String()
}

// covers fails unless the steps have every journalled point that a refresh reaches.
func (s *subject) covers(t *testing.T, steps []step, goesBack bool) {
	t.Helper()
	s.run(t, fmt.Sprintf("touch %s/%s", failpoint.Directory, failpoint.Passed))
	s.start(t, goesBack)
	outcome, _ := s.ended(t)
	if want := map[bool]string{false: newStack, true: oldStack}[goesBack]; outcome != want {
		t.Fatalf("without a fault it ends on the %s", outcome)
	}
	passed := s.run(t, fmt.Sprintf("cd %s && cat %s && rm %[2]s", failpoint.Directory, failpoint.Passed))
	for point := range strings.Lines(passed) {
		point = strings.TrimSuffix(point, "\n")
		known := slices.ContainsFunc(append(slices.Clone(forward), steps...), func(s step) bool { return s.point == point })
		if strings.Contains(point, " journal ") && !known {
			t.Errorf("a refresh passes %q, and no fault is tried there", point)
		}
	}
}

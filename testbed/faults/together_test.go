package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// takesOneRefreshAtATime requests refreshes while one is in flight, and one refresh twice.
func (s *subject) takesOneRefreshAtATime(t *testing.T) {
	t.Run("two at once", func(t *testing.T) {
		s.reset(t)
		s.run(t, fmt.Sprintf("touch %s/%s", failpoint.Directory, failpoint.Reached))
		results := make(chan error, 2)
		for range 2 {
			go func() {
				_, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.two), func(string) {})
				results <- err
			}()
		}
		for range 2 {
			t.Logf("one of them: %v", <-results) // one may fail because of the other
		}
		s.ended(t)
		reached := s.run(t, fmt.Sprintf("cd %s && cat %s && rm %[2]s", failpoint.Directory, failpoint.Reached))
		if n := strings.Count(reached, "between the calls of a swap"); n > 1 {
			t.Errorf("/usr was swapped %d times", n)
		}
		s.apply(t)
		if s.ended(t); s.at != s.two {
			t.Error("the next apply succeeded, but the VM runs the old release")
		}
		matrix.Record(t, "two applies of the same release at the same time", "from the beginning",
			"at most one swap, the next apply converges")
	})
	t.Run("another one meanwhile", func(t *testing.T) {
		s.reset(t)
		third := s.third(t)
		s.attach(t, s.two)
		s.arm(t, failpoint.Pause+" 1 after journal swapped")
		s.begin(t)
		s.awaitTriggered(t)
		agent, err := s.Agent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = agent.Close() }()
		answer, err := agent.Refresh(t.Context(),
			&agentapi.RefreshRequest{Target: s.target(t, agent, s.one, s.two), AllowDowngrade: true})
		if err != nil || answer.GetStarted() {
			t.Errorf("the same again: %v, %v", answer, err)
		}
		_, err = agent.Refresh(t.Context(), &agentapi.RefreshRequest{Target: s.target(t, agent, s.one, third)})
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "in flight") {
			t.Errorf("another one: %v", err)
		}
		s.resume(t)
		outcome, _ := s.ended(t)
		matrix.Record(t, "refresh to a third release while another refresh is in flight", "after swapped",
			"refused; the refresh in flight ends on the "+outcome)
		matrix.Record(t, "the same refresh is requested again", "after swapped", "nothing to do, "+outcome)
	})
	t.Run("again when it is done", func(t *testing.T) {
		before, err := s.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		agent, err := s.Agent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = agent.Close() }()
		target := s.target(t, agent, s.other(), s.at)
		if answer, err := agent.Refresh(t.Context(), &agentapi.RefreshRequest{Target: target}); err != nil ||
			answer.GetStarted() {
			t.Errorf("got %v, %v", answer, err)
		}
		after, err := s.Status(t.Context())
		if err != nil || after.GetGeneration() != before.GetGeneration() ||
			!slices.Equal(after.GetAttached(), before.GetAttached()) {
			t.Errorf("it was %v and is %v, %v", before, after, err)
		}
		matrix.Record(t, "the same refresh is requested again", "after idle", "nothing to do, "+newStack)
	})
}

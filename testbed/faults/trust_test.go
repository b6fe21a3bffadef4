package faults

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/refresh"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// refusesWhatIsNotTrusted requests refreshes that no operator has signed, or that lead to an
// earlier release. The VM runs the second release.
func (s *subject) refusesWhatIsNotTrusted(t *testing.T) {
	if s.at == s.one {
		s.mustMove(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	agent, err := s.Agent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Close() }()
	one, _, err := guest.Stack(ctx, s.Host.Publisher, s.Operator, s.one)
	if err != nil {
		t.Fatal(err)
	}
	two, manifest, err := guest.Stack(ctx, s.Host.Publisher, s.Operator, s.two)
	if err != nil {
		t.Fatal(err)
	}
	_, stranger, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := release.SignStack(manifest, stranger)
	if err != nil {
		t.Fatal(err)
	}
	twin := *manifest
	twin.Base.ID, twin.OS = tree.Sum([]byte("another release")), "another system"
	same, _, err := release.SignStack(&twin, s.Operator)
	if err != nil {
		t.Fatal(err)
	}
	text, _, _ := bytes.Cut(two, []byte("\n\n"))
	for _, test := range []struct {
		fault           string
		target, current []byte
		want            string
	}{
		{"bad signature", bytes.Replace(two, []byte(manifest.OS), []byte("An other OS"), 1), two, release.ErrSignature.Error()},
		{"missing signature", append(text, '\n'), two, release.ErrSignature.Error()},
		{"foreign signature", foreign, two, release.ErrSignature.Error()},
		{"second release with the sequence of the running one", same, two, "two releases have the sequence"},
		{"replayed earlier release", one, two, refresh.ErrDowngrade.Error()},
		{"the caller is wrong about the running stack", one, one, refresh.ErrStale.Error()},
		{"target and current swapped", two, one, ""}, // it runs already
		{"forged current stack", one, foreign, release.ErrSignature.Error()},
	} {
		t.Run(test.fault, func(t *testing.T) {
			s.target(t, agent, s.one, s.two) // the contents lists are there
			request := &agentapi.RefreshRequest{Target: &agentapi.Target{To: test.target, From: test.current}}
			started, err := agent.Refresh(ctx, request)
			said := ""
			switch {
			case err != nil:
				said = err.Error()
			case started.GetStarted():
				status, err := s.Settled(ctx)
				if err != nil {
					t.Fatal(err)
				}
				if !status.GetLast().GetRefused() {
					t.Errorf("it was not refused: %v", status.GetLast())
				}
				said = status.GetLast().GetError()
			}
			if (said == "") != (test.want == "") || !strings.Contains(said, test.want) {
				t.Errorf("the error is %q, want %q", said, test.want)
			}
			outcome, _ := s.ended(t)
			matrix.Record(t, test.fault, "requested of the agent", "refused, "+outcome)
		})
	}
}

package faults

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// takeoverPoints are the failpoints before and after each record of a takeover.
var takeoverPoints = []string{
	"before the record of a takeover", "after the record of a takeover",
	"before the successor is put in place", "after the successor is put in place",
	"before the service has its new process", "after the service has its new process",
}

// The agent that serves after a takeover was interrupted.
const (
	oneBefore = "the previous agent serves"
	successor = "the successor serves"
	follows   = ", the next apply converges"
)

// survivesTakeovers kills the agent during takeovers, and then cuts the power. All files of a
// takeover are in /run, so after a power cut the guest has the agent of its definition.
func (s *subject) survivesTakeovers(t *testing.T) {
	own := s.Host.Fleet.AgentBinary
	defer func() { s.Host.Fleet.AgentBinary = own }()
	for i, at := range takeoverPoints {
		t.Run("SIGKILL "+at, func(t *testing.T) {
			before := s.mustStatus(t).GetAgentDigest()
			next := s.upgrade(t, fmt.Sprintf("kill %d", i))
			s.arm(t, failpoint.Kill+" 1 "+at)
			_, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.at), func(step string) { t.Log(step) })
			t.Logf("the apply meanwhile: %v", err)
			s.awaitTriggered(t) // an apply that the successor has answered does not wait for it
			now, err := s.Settled(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{before: oneBefore, next: successor}[now.GetAgentDigest()]
			if triggered := s.triggered(t); triggered != at {
				t.Errorf("the failpoints that triggered are %q", triggered)
			}
			s.mustServeAlone(t, now)
			s.mustConverge(t)
			matrix.Record(t, "SIGKILL of the agent", at, got+follows)
		})
	}
	// The state after a power cut changes once: when the successor has answered the apply, which
	// then updates the definition.
	for i, during := range [][]string{takeoverPoints[:2], takeoverPoints[2:4]} {
		step := strings.Join(during, ", ")
		t.Run("power cut "+step, func(t *testing.T) {
			before := s.mustStatus(t).GetAgentDigest()
			next := s.upgrade(t, fmt.Sprintf("cut %d", i))
			s.arm(t, failpoint.Pause+" 1 "+during[len(during)-1])
			answered := i > 0
			applied := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), callLimit)
				defer cancel()
				_, _, err := s.Host.Fleet.Update(ctx, s.wants(s.at), func(string) {})
				applied <- err
			}()
			if answered {
				if err := <-applied; err != nil {
					t.Errorf("the apply meanwhile: %v", err)
				}
			}
			s.awaitTriggered(t)
			if err := s.CutPower(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !answered {
				if err := <-applied; err == nil {
					t.Error("the apply succeeded although the VM was off")
				}
			}
			now, err := s.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{before: oneBefore, next: successor}[now.GetAgentDigest()]
			s.mustServeAlone(t, now)
			if serves := s.mustConverge(t); serves != next {
				t.Errorf("after the next apply agent %s serves, and not %s", serves, next)
			}
			matrix.Record(t, "power cut", step, got+follows)
		})
	}
}

// upgrade gives the host another agent for the VM, and returns its digest. The agent works like the
// present one: it has a mark behind the last section of the binary.
func (s *subject) upgrade(t *testing.T, mark string) string {
	t.Helper()
	binary, err := os.ReadFile(s.agent)
	if err != nil {
		t.Fatal(err)
	}
	binary = append(binary, mark...)
	s.Host.Fleet.AgentBinary = func() ([]byte, error) { return binary, nil }
	return tree.Sum(binary).String()
}

// mustConverge applies again, and returns the digest of the agent that serves after that.
func (s *subject) mustConverge(t *testing.T) string {
	t.Helper()
	updated, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.at), func(string) {})
	if err != nil {
		t.Fatalf("the next apply: %v", err)
	}
	s.mustServeAlone(t, updated.Agent)
	if looks := s.look(t); looks != s.looks[s.at] {
		t.Errorf("after a takeover the VM differs from its release:\n%s", difference(s.looks[s.at], looks))
	}
	return updated.Agent.GetAgentDigest()
}

// mustServeAlone fails the test unless the agent that answered becomes the only process of its service,
// and the program that systemd starts. A successor becomes that some seconds after its first answer.
func (s *subject) mustServeAlone(t *testing.T, now *agentapi.StatusResponse) {
	t.Helper()
	digest := strings.TrimPrefix(now.GetAgentDigest(), "sha256:")
	s.run(t, fmt.Sprintf(`alone() {
	pid=$(systemctl show --value -p MainPID sharedos-agent.service)
	[ "$(cat /sys/fs/cgroup/system.slice/sharedos-agent.service/cgroup.procs)" = "$pid" ] || return
	[ "$(ls /run/sharedos/bin)" = agent ] && cmp -s /proc/$pid/exe /run/sharedos/bin/agent || return
	sha256sum < /proc/$pid/exe | grep -q %s
}
for i in $(seq 120); do alone && exit; sleep 1; done
cat /sys/fs/cgroup/system.slice/sharedos-agent.service/cgroup.procs >&2; ls /run/sharedos/bin >&2; exit 1`, digest))
}

func (s *subject) mustStatus(t *testing.T) *agentapi.StatusResponse {
	t.Helper()
	now, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return now
}

// triggered returns the failpoints that have triggered in this boot since they were armed.
func (s *subject) triggered(t *testing.T) string {
	t.Helper()
	_, points := s.inspect(t)
	return strings.Join(points, "\n")
}

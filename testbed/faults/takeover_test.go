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

// takeoverPoints are those around what a takeover records.
var takeoverPoints = []string{
	"before the record of a takeover", "after the record of a takeover",
	"before the successor is put in place", "after the successor is put in place",
	"before the service has its new process", "after the service has its new process",
}

// Who serves after a takeover was cut off.
const (
	oneBefore = "the previous agent serves"
	successor = "the successor serves"
	follows   = ", the next apply converges"
)

// survivesTakeovers has the agent killed, and then the power cut, in the middle of takeovers. All files of a takeover are
// in /run: what a power cut leaves is the host's definition, which follows the guest.
func (s *subject) survivesTakeovers(t *testing.T) {
	own := s.Host.Fleet.AgentBinary
	defer func() { s.Host.Fleet.AgentBinary = own }()
	for i, at := range takeoverPoints {
		t.Run("SIGKILL "+at, func(t *testing.T) {
			before := s.mustStatus(t).GetAgentDigest()
			next := s.carries(t, fmt.Sprintf("kill %d", i))
			s.arm(t, failpoint.Kill+" 1 "+at)
			_, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.at), func(step string) { t.Log(step) })
			t.Logf("the apply meanwhile: %v", err)
			s.held(t) // which an apply that has heard the successor does not wait for
			now, err := s.Settled(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{before: oneBefore, next: successor}[now.GetAgentDigest()]
			if struck := s.struck(t); struck != at {
				t.Errorf("what struck is %q", struck)
			}
			s.mustServeAlone(t, now)
			s.mustConverge(t)
			matrix.Record(t, "SIGKILL of the agent", at, got+follows)
		})
	}
	// What a power cut leaves changes once: when the apply has heard the successor, and the definition gets it.
	for i, during := range [][]string{takeoverPoints[:2], takeoverPoints[2:4]} {
		step := strings.Join(during, ", ")
		t.Run("power cut "+step, func(t *testing.T) {
			before := s.mustStatus(t).GetAgentDigest()
			next := s.carries(t, fmt.Sprintf("cut %d", i))
			s.arm(t, failpoint.Hold+" 1 "+during[len(during)-1])
			heard := i > 0
			applied := make(chan error, 1)
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), callLimit)
				defer cancel()
				_, _, err := s.Host.Fleet.Update(ctx, s.wants(s.at), func(string) {})
				applied <- err
			}()
			if heard {
				if err := <-applied; err != nil {
					t.Errorf("the apply meanwhile: %v", err)
				}
			}
			s.held(t)
			if err := s.CutPower(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !heard {
				if err := <-applied; err == nil {
					t.Error("the apply meanwhile succeeded, without a VM")
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

// carries has the host bring one more agent to the VM from now on, and returns its digest: bytes behind a program's last
// section make one that differs and works.
func (s *subject) carries(t *testing.T, mark string) string {
	t.Helper()
	binary, err := os.ReadFile(s.agent)
	if err != nil {
		t.Fatal(err)
	}
	binary = append(binary, mark...)
	s.Host.Fleet.AgentBinary = func() ([]byte, error) { return binary, nil }
	return tree.Sum(binary).String()
}

// mustConverge applies again, and returns the digest of the agent that serves then.
func (s *subject) mustConverge(t *testing.T) string {
	t.Helper()
	updated, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.at), func(string) {})
	if err != nil {
		t.Fatalf("the next apply: %v", err)
	}
	s.mustServeAlone(t, updated.Agent)
	if looks := s.look(t); looks != s.looks[s.at] {
		t.Errorf("after a takeover it looks otherwise:\n%s", difference(s.looks[s.at], looks))
	}
	return updated.Agent.GetAgentDigest()
}

// mustServeAlone fails unless the agent that answered becomes the one process of its service, and the one that systemd
// starts: a successor does some seconds after it has answered.
func (s *subject) mustServeAlone(t *testing.T, now *agentapi.StatusResponse) {
	t.Helper()
	digest := strings.TrimPrefix(now.GetAgentDigest(), "sha256:")
	s.run(t, fmt.Sprintf(`alone() {
	pid=$(systemctl show --value -p MainPID sharedos-agent.service)
	[ "$(cat /sys/fs/cgroup/system.slice/sharedos-agent.service/cgroup.procs)" = "$pid" ] || return
	[ "$(cat /proc/$pid/exe /run/sharedos/bin/* | sha256sum)" = "$(cat /run/sharedos/bin/agent /run/sharedos/bin/agent | sha256sum)" ] || return
	sha256sum < /proc/$pid/exe | grep -q %s
}
for i in $(seq 30); do alone && exit; sleep 1; done
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

// struck are the points that have struck in this boot since they were armed.
func (s *subject) struck(t *testing.T) string {
	t.Helper()
	_, points := s.inspect(t)
	return strings.Join(points, "\n")
}

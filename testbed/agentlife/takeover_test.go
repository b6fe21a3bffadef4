package agentlife_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// laterAgent returns an agent that differs from the present one: a program with more bytes behind its last section
// works as before.
func laterAgent(t *testing.T, w *guest.World, mark string) []byte {
	t.Helper()
	binary, err := w.Host.Fleet.AgentBinary()
	must(t, err)
	return append(append([]byte(nil), binary...), mark...)
}

// carry has the host send an agent to the VM, by an update that needs no refresh.
func carry(t *testing.T, v *guest.VM, binary []byte) *vm.VM {
	t.Helper()
	fleet := v.World.Host.Fleet
	before := fleet.AgentBinary
	defer func() { fleet.AgentBinary = before }()
	fleet.AgentBinary = func() ([]byte, error) { return binary, nil }
	updated, _, err := fleet.Update(t.Context(), v.Spec, func(step string) { t.Log(step) })
	must(t, err)
	return updated
}

// service returns a property of the agent's unit from systemd.
func service(t *testing.T, v *guest.VM, property string) string {
	t.Helper()
	return run(t, v, "systemctl show --value -p "+property+" sharedos-agent.service")
}

func testTakeover(t *testing.T, v *guest.VM) {
	boot, old := status(t, v).GetBootId(), service(t, v, "MainPID")
	next := laterAgent(t, v.World, "\x00one")
	updated := carry(t, v, next)
	digest := tree.Sum(next).String()
	if updated.OtherAgent != "" || updated.Agent.GetAgentDigest() != digest || updated.Agent.GetBootId() != boot {
		t.Fatalf("%s answers: %s", updated.Agent.GetAgentDigest(), updated.OtherAgent)
	}
	// The previous agent waits some seconds to see whether its successor runs on.
	run(t, v, "timeout 300 sh -c 'while test -e /proc/"+old+"; do sleep 0.2; done'")
	pid := service(t, v, "MainPID")
	if got := run(t, v, "sha256sum < /proc/"+pid+
		"/exe; systemctl is-active sharedos-agent; pgrep -c -f 'agent.* serve'"); got != strings.TrimPrefix(digest,
		"sha256:")+"  -\nactive\n1" {
		t.Errorf("the service runs process %s: %q", pid, got)
	}
	matrix.Record(t, "a newer agent", "idle", "it takes over in place")
	// From now on systemd starts the new agent.
	run(t, v, "kill -9 "+pid)
	again := await(t, v, "is up again",
		func(s *agentapi.StatusResponse) bool { return s.GetAgentDigest() == digest && s.GetOpenFiles() > 0 })
	if now := service(t, v, "MainPID"); now == pid || again.GetBootId() != boot {
		t.Errorf("process %s, then %s", pid, now)
	}
	matrix.Record(t, "SIGKILL of the agent", "after a new agent has taken over", "systemd starts the new agent")
}

func testTakeoverThatFails(t *testing.T, v *guest.VM) {
	defer func() {
		if text, err := v.Run(t.Context(), "journalctl -b -n 80 --no-pager -u sharedos-agent.service"); t.Failed() {
			t.Log(text, err)
		}
	}()
	before := status(t, v)
	for step, c := range map[string]struct{ program, why string }{
		"it ends at once":            {"#!/bin/sh\nexit 3\n", "exit status 3"},
		"it is not a program":        {"\x7fELF garbage", "exec format error"},
		"it ends after it was ready": {"#!/bin/sh\nNOTIFY_SOCKET=$SHAREDOS_SUCCESSOR systemd-notify --ready\nsleep 1\nexit 7\n", "exit status 7"},
	} {
		updated := carry(t, v, []byte(c.program))
		if updated.Agent.GetAgentDigest() != before.GetAgentDigest() || !strings.Contains(updated.OtherAgent, c.why) ||
			!strings.Contains(updated.Agent.GetAgentRefused(), c.why) {
			t.Errorf("%s: %s answers, and says %q", step, updated.Agent.GetAgentDigest(), updated.OtherAgent)
			continue
		}
		matrix.Record(t, "a newer agent that does not start", step, "the previous agent continues and gives the reason")
	}
	// Killing the agent that waits kills its successor, too.
	hangs := []byte("#!/bin/sh\nexec sleep 600\n")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	killed := make(chan error, 1)
	go func() {
		_, err := v.Run(ctx,
			"until test -S /run/sharedos/takeover.sock; do sleep 0.1; done; sleep 1; kill -9 $(systemctl show --value -p MainPID sharedos-agent.service)")
		killed <- err
	}()
	carry(t, v, hangs)
	must(t, <-killed)
	now := await(t, v, "serves again and says why", func(s *agentapi.StatusResponse) bool {
		return strings.Contains(s.GetAgentRefused(), "was ended while it waited")
	})
	if now.GetAgentDigest() != before.GetAgentDigest() {
		t.Errorf("%s answers", now.GetAgentDigest())
	}
	if got := run(t, v, "pgrep -c -x sleep || true; ls /run/sharedos/bin"); got != "0\nagent" {
		t.Errorf("left are %q", got)
	}
	matrix.Record(t, "SIGKILL of the agent", "while a new agent is being tried",
		"the previous agent continues and gives the reason")
	// The domain's definition has those bad agents, too. A good one replaces them everywhere.
	if updated := carry(t, v, laterAgent(t, v.World, "\x00two")); updated.OtherAgent != "" ||
		updated.Agent.GetAgentRefused() != "" || updated.Agent.GetBootId() != before.GetBootId() {
		t.Errorf("in the end: %q, %q", updated.OtherAgent, updated.Agent.GetAgentRefused())
	}
}

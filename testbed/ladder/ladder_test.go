// Package ladder_test refreshes real guests with every strategy, and breaks each of them, so that the VM has to go
// back.
package ladder_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func TestMain(m *testing.M) { os.Exit(matrix.Run(m)) }

// marked returns edits that identify a release, in /usr and in /etc, and further ones.
func marked(name string, more ...guest.Edit) []guest.Edit {
	return slices.Concat(guest.Quick(), marks(name), more)
}

func marks(name string) []guest.Edit {
	return []guest.Edit{guest.Write("usr/share/mark", 0o644, name), guest.Write("etc/mark", 0o644, name)}
}

// loader changes the dynamic loader, which a swap of /usr cannot replace in running processes.
func loader(text string) guest.Edit { return guest.Append("/ld-linux-x86-64.so.2", text) }

// climber is a VM that is refreshed from release to release.
type climber struct {
	*guest.VM
	t *testing.T
	// mark and kernel of the release that it runs.
	mark, kernel string
}

// climb refreshes to a release with a strategy.
func (c *climber) climb(to tree.Digest, strategy string) (*agentapi.Report, error) {
	c.t.Helper()
	c.Spec.Refresh.Strategy, c.Spec.Refresh.MaxImpact = strategy, agentapi.Level_REBOOT
	spec := c.Spec
	spec.Base = to
	told, err := c.World.Host.Fleet.Assess(c.t.Context(), spec)
	if err != nil {
		c.t.Fatalf("assess: %v", err)
	}
	report, err := c.Refresh(c.t.Context(), to)
	if told.GetStrategy() != report.GetStrategy() || told.GetLevel() != report.GetImpact().GetLevel() {
		c.t.Errorf("the plan says %s with %s, the refresh %s with %s", told.GetStrategy(), told.GetLevel(),
			report.GetStrategy(), report.GetImpact().GetLevel())
	}
	for _, timing := range report.GetTimings() {
		c.t.Logf("%s: %.1f s", timing.GetStep(), float64(timing.GetMicros())/1e6)
	}
	return report, err
}

// runs fails unless the guest runs the release with this mark completely, under this kernel, and can load the
// kernel's modules.
func (c *climber) runs(mark, kernel string) {
	c.t.Helper()
	got, err := c.Run(c.t.Context(),
		"cat /usr/share/mark; echo; cat /etc/mark; echo; uname -r; systemctl is-system-running; cat /root/own; "+
			"modprobe dummy && modprobe -r dummy && echo modules")
	want := strings.Join([]string{mark, mark, kernel, "running", "own", "modules"}, "\n")
	if err != nil || got != want {
		c.t.Fatalf("it runs %q, %v; want %q", got, err, want)
	}
	now, err := c.World.Host.Fleet.Read(c.t.Context(), c.Spec.Name)
	if err != nil || !now.Answered || now.Stack.Base != c.Spec.Base || now.Spec.Base != c.Spec.Base {
		c.t.Fatalf("the host has %+v, %v; want base %s", now, err, c.Spec.Base)
	}
	if state := now.Agent.GetState(); state != agentapi.State_IDLE {
		c.t.Errorf("the agent is in state %s", state)
	}
	c.mark, c.kernel = mark, kernel
}

// byHand adds to the network what its configuration does not have.
const byHand = `set -e
dev=$(ip -4 route show default | sed 's/.* dev \([^ ]*\).*/\1/')
ip address add 10.77.0.1/24 dev $dev
ip route add 10.78.0.0/16 via 10.77.0.9 dev $dev
ip rule add from 10.79.0.0/16 lookup 77 priority 777
ip neighbour add 10.77.0.9 lladdr 02:00:00:00:00:09 dev $dev`

// addByHand does that, and hasByHand fails unless all of it is there.
func (c *climber) addByHand() {
	c.t.Helper()
	if _, err := c.Run(c.t.Context(), byHand); err != nil {
		c.t.Fatal(err)
	}
}

func (c *climber) hasByHand() {
	c.t.Helper()
	now, err := c.Run(c.t.Context(), "ip -4 -o address; ip -4 route; ip -4 rule; ip -4 neighbour")
	for _, want := range []string{"10.77.0.1/24", "10.78.0.0/16 via 10.77.0.9",
		"from 10.79.0.0/16 lookup 77", "10.77.0.9 dev"} {
		if err != nil || !strings.Contains(now, want) {
			c.t.Errorf("the network has lost %s: %s, %v", want, now, err)
		}
	}
}

func (c *climber) bootID() string {
	c.t.Helper()
	status, err := c.Status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	return status.GetBootId()
}

// mustCommit fails unless a refresh was committed with a strategy.
func mustCommit(t *testing.T, report *agentapi.Report, err error, rung string) {
	t.Helper()
	if err != nil || !report.GetCommitted() || report.GetStrategy() != rung {
		t.Fatalf("%v, %v", report, err)
	}
}

// mustRollBack fails unless a refresh was rolled back, for a reason.
func mustRollBack(t *testing.T, report *agentapi.Report, err error, rung, reason string) {
	t.Helper()
	if !errors.Is(err, vm.ErrRolledBack) || report.GetCommitted() || report.GetStrategy() != rung ||
		!guest.Says(err, reason) {
		t.Fatalf("%v, %v; want %q", report, err, reason)
	}
}

// newClimber makes a VM that runs the release with the mark "first".
func newClimber(t *testing.T, w *guest.World, name string, first tree.Digest) *climber {
	t.Helper()
	v, err := w.Create(t.Context(), name, first, func(s *vm.Spec) {
		s.Refresh.HealthChecks = []*agentapi.HealthCheck{{Name: "page",
			Kind: &agentapi.HealthCheck_Http{Http: "http://127.0.0.1/"}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Delete(context.WithoutCancel(t.Context())); err != nil && !t.Failed() {
			t.Errorf("delete the VM, for another one to have its slot: %v", err)
		}
	})
	status, err := v.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Run(t.Context(), "echo own > /root/own"); err != nil {
		t.Fatal(err)
	}
	return &climber{VM: v, t: t, mark: "first", kernel: status.GetKernel()}
}

// try runs one step of a climber as a subtest.
func (c *climber) try(t *testing.T, name string, climb func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		c.t = t
		climb(t)
	})
}

// Outcomes of the fault matrix.
const (
	sameKernel = "old stack, under the same kernel"
	byReset    = "old stack, by a reset of the machine"
	itsKernel  = "old stack with its kernel, started by the host"
)

func TestTheLadder(t *testing.T) {
	t.Parallel()
	w := guest.New(t)
	w.Expected = 6 * time.Minute
	points := guest.AgentWithPoints(t) // its watchdog has a short timeout
	w.Host.Fleet.AgentBinary = func() ([]byte, error) { return os.ReadFile(points) }
	publish := func(suites []string, edits []guest.Edit) tree.Digest {
		id, err := w.Publish(t.Context(), "ladder", suites, edits...)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	// Debian's updates have a newer kernel than the release, except in the days after a point release.
	broken := guest.Write("usr/sbin/nginx", 0o755, "#!/bin/sh\nexit 1\n")
	dead := guest.Remove(
		"usr/lib/x86_64-linux-gnu/systemd") // systemd ends without its libraries, and the kernel panics
	first := publish(guest.Plain, marked("first"))
	soft := publish(guest.Updated, marked("soft", loader("\x00")))
	sick := publish(guest.Updated, marked("sick", loader("\x00\x00"), broken))
	kexec := publish(guest.Updated, marked("kexec", loader("\x00")))
	panics := publish(guest.Plain, marked("panics", loader("\x00"), dead))
	hangs := publish(guest.Updated, marked("hangs", loader("\x00"), guest.Hang()))
	reboot := publish(guest.Updated, marked("reboot", loader("\x00")))
	lost := publish(guest.Plain, marked("lost", loader("\x00"), dead))

	t.Run("within the machine", func(t *testing.T) {
		t.Parallel()
		c := newClimber(t, w, "within", first)
		old, booted := c.kernel, c.bootID()
		updated := ""
		c.try(t, "a soft-reboot starts another userland under the same kernel", func(t *testing.T) {
			c.addByHand()
			report, err := c.climb(soft, vm.SoftReboot)
			mustCommit(t, report, err, vm.SoftReboot)
			updated = report.GetTo().GetKernel()
			c.runs("soft", old)
			c.hasByHand()
			if c.bootID() != booted {
				t.Error("the kernel was started anew")
			}
			status, err := c.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if updated == old || len(status.GetPending()) != 1 {
				t.Errorf("it has kernel %s, and %s runs; pending is %q", updated, old, status.GetPending())
			}
		})
		c.try(t, "one after which a service fails is followed by another, back", func(t *testing.T) {
			report, err := c.climb(sick, vm.SoftReboot)
			mustRollBack(t, report, err, vm.SoftReboot, "nginx.service")
			c.runs("soft", old)
			if c.bootID() != booted {
				t.Error("the kernel was started anew")
			}
			matrix.Record(t, "a service fails", "after a soft-reboot", sameKernel)
		})
		c.try(t, "a kexec starts another kernel in the same machine", func(t *testing.T) {
			report, err := c.climb(kexec, vm.Kexec)
			mustCommit(t, report, err, vm.Kexec)
			c.runs("kexec", updated)
			if c.bootID() == booted {
				t.Error("the kernel was not started anew")
			}
		})
		c.try(t, "one that panics is a reset, back to what was committed", func(t *testing.T) {
			report, err := c.climb(panics, vm.Kexec)
			mustRollBack(t, report, err, vm.Kexec, "runs what it ran before")
			// QEMU was last started with the first kernel, so a reset boots that one.
			c.runs("kexec", old)
			matrix.Record(t, "a kernel panic", "after a kexec", byReset)
		})
	})
	t.Run("with the machine", func(t *testing.T) {
		t.Parallel()
		c := newClimber(t, w, "with", first)
		c.try(t, "a kernel that hangs is a reset by the watchdog", func(t *testing.T) {
			armed := "mkdir -p " + failpoint.Directory + "; echo fail 1 before a kexec with a short watchdog > " +
				failpoint.Directory + "/" + failpoint.Armed
			if _, err := c.Run(t.Context(), armed); err != nil {
				t.Fatal(err)
			}
			report, err := c.climb(hangs, vm.Kexec)
			mustRollBack(t, report, err, vm.Kexec, "runs what it ran before")
			c.runs("first", c.kernel)
			matrix.Record(t, "a kernel that hangs", "after a kexec", byReset)
		})
		updated := ""
		c.try(t, "the host starts another kernel with the machine", func(t *testing.T) {
			report, err := c.climb(reboot, vm.Reboot)
			mustCommit(t, report, err, vm.Reboot)
			updated = report.GetTo().GetKernel()
			c.runs("reboot", updated)
		})
		c.try(t, "a start that panics is followed by one of what ran, with its kernel", func(t *testing.T) {
			report, err := c.climb(lost, vm.Reboot)
			mustRollBack(t, report, err, vm.Reboot, "it did not come up in 1 boots")
			c.runs("reboot", updated)
			matrix.Record(t, "a kernel panic", "after the host's start", itsKernel)
		})
	})
}

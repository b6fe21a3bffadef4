package agentlife_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func read(t *testing.T, v *guest.VM) *vm.VM {
	t.Helper()
	now, err := v.World.Host.Fleet.Read(t.Context(), v.Spec.Name)
	must(t, err)
	return now
}

func plugged(t *testing.T, v *guest.VM, id tree.Digest) bool {
	t.Helper()
	ids, err := v.World.Host.Fleet.Hypervisor.AttachedLayers(t.Context(), v.Spec.Name)
	must(t, err)
	return slices.Contains(ids, id)
}

// users returns what still uses a layer that the stack does not have any more.
func users(now *vm.VM, id tree.Digest) string {
	for _, layer := range now.Surplus {
		if layer.ID == id {
			return strings.Join(layer.InUseBy, "\n")
		}
	}
	return ""
}

// refresh refreshes the VM to a release, and fails the test if that is not committed.
func refresh(t *testing.T, v *guest.VM, to tree.Digest) *agentapi.Report {
	t.Helper()
	report, err := v.Refresh(t.Context(), to)
	if err != nil || !report.GetCommitted() {
		t.Fatalf("refresh to %s: %v: %v", to, report, err)
	}
	return report
}

// useScripts are shell scripts that each use one file or directory of the current /usr when the test tells them
// to. The shells were started from an earlier /usr and execute nothing from the current one.
var useScripts = map[string]string{
	"open": "exec 3</usr/share/kept",
	"cwd":  "cd /usr/share",
}

// testLayers refreshes from a delta to a full layer while processes use the delta.
func testLayers(releases []tree.Digest) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		run(t, v, "mkfifo /root/go-open /root/go-cwd /root/never")
		for name, script := range useScripts {
			// The script is in a file: a unit is restarted when a file changes that its command line names.
			run(t, v, fmt.Sprintf(
				"echo 'read x </root/go-%[1]s; %[2]s; echo used > /root/used-%[1]s; read x </root/never' > /root/use-%[1]s; systemd-run -q --unit=use-%[1]s sh /root/use-%[1]s", name, script))
		}
		refresh(t, v, releases[1])
		layers := read(t, v).Stack.Layers
		if len(layers) != 2 {
			t.Fatalf("the second release has %d layers", len(layers))
		}
		full, delta := layers[0].ID, layers[1].ID
		run(t, v, "for h in open cwd; do echo > /root/go-$h; until test -s /root/used-$h; do sleep 0.1; done; done; systemd-run -q --unit=use-runs sleep 1000")
		// The full layer has the same files at the same paths.
		if units := refresh(t, v, releases[2]).GetImpact().GetUnits(); len(units) > 0 {
			t.Errorf("a refresh to one full layer affects %v", units)
		}
		now := read(t, v)
		if len(now.Stack.Layers) != 1 {
			t.Fatalf("the third release has %d layers", len(now.Stack.Layers))
		}
		if got := users(now, full); got != "the root file system, until the next boot" {
			t.Errorf("the layer of the first release is used by %q", got)
		}
		wants := map[string]string{
			"open": "(sh) has open /usr/share/kept", "cwd": "(sh) works in /usr/share",
		}
		for name, want := range wants {
			if by := users(now, delta); !strings.Contains(by, "use-"+name+".service: process ") ||
				!strings.Contains(by, want) {
				t.Errorf("the delta is used by %q, want %q", by, want)
			}
		}
		// It was started while the delta was there, but its program and libraries are of the full layer.
		if by := users(now, delta); strings.Contains(by, "use-runs") {
			t.Errorf("the delta is used by %q", by)
		}
		if !plugged(t, v, delta) {
			t.Fatal("a layer that is in use was unplugged")
		}
		matrix.Record(t, "a process uses a layer that the stack no longer needs", "after a rebase to a full layer",
			"it stays attached, and its users are reported")
		run(t, v, "systemctl stop use-open use-cwd")
		if by := users(read(t, v), delta); by != "" {
			t.Errorf("after all processes ended, the delta is used by %q", by)
		}
		updated, _, err := v.World.Host.Fleet.Update(t.Context(), v.Spec, func(step string) { t.Log(step) })
		must(t, err)
		if plugged(t, v, delta) || users(updated, full) == "" {
			t.Errorf("layers still in use: %v", updated.Surplus)
		}
		if got := run(t, v, "dmesg | grep -c 'I/O error' || true; cat /usr/share/mark; echo; systemctl is-active use-runs"); got != "0\nthree\nactive" {
			t.Errorf("the guest has %q", got)
		}
		run(t, v, "systemctl stop use-runs")
		matrix.Record(t, "a layer that is no longer used", "at the next apply", "it is unplugged, and no read fails")
	}
}

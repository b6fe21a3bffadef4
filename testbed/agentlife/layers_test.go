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

// holders of a layer that is attached in vain.
func holders(now *vm.VM, id tree.Digest) string {
	for _, held := range now.Held {
		if held.ID == id {
			return strings.Join(held.By, "\n")
		}
	}
	return ""
}

// refresh moves the VM and fails the test if it does not get there.
func refresh(t *testing.T, v *guest.VM, to tree.Digest) *agentapi.Report {
	t.Helper()
	report, err := v.Refresh(t.Context(), to)
	if err != nil || !report.GetCommitted() {
		t.Fatalf("refresh to %s: %v: %v", to, report, err)
	}
	return report
}

// holdScripts each hold one thing of the /usr that is there when they are let go on. The shells themselves were started
// from an earlier one: they run nothing anew.
var holdScripts = map[string]string{
	"open": "exec 3</usr/share/kept",
	"cwd":  "cd /usr/share",
}

// testLayers goes from a delta to a full layer while somebody uses the delta.
func testLayers(releases []tree.Digest) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		run(t, v, "mkfifo /root/go-open /root/go-cwd /root/never")
		for name, script := range holdScripts {
			// In a file, since a unit is restarted when a file changes that its command line names.
			run(t, v, fmt.Sprintf("echo 'read x </root/go-%[1]s; %[2]s; echo held > /root/held-%[1]s; read x </root/never' > /root/hold-%[1]s; systemd-run -q --unit=hold-%[1]s sh /root/hold-%[1]s", name, script))
		}
		refresh(t, v, releases[1])
		layers := read(t, v).Stack.Layers
		if len(layers) != 2 {
			t.Fatalf("the second release has %d layers", len(layers))
		}
		full, delta := layers[0].ID, layers[1].ID
		run(t, v, "for h in open cwd; do echo > /root/go-$h; until test -s /root/held-$h; do sleep 0.1; done; done; systemd-run -q --unit=hold-runs sleep 1000")
		// The full layer has the same files once more, at the same paths.
		if units := refresh(t, v, releases[2]).GetImpact().GetUnits(); len(units) > 0 {
			t.Errorf("a refresh to one full layer affects %v", units)
		}
		now := read(t, v)
		if len(now.Stack.Layers) != 1 {
			t.Fatalf("the third release has %d layers", len(now.Stack.Layers))
		}
		if got := holders(now, full); got != "the root file system, until the next boot" {
			t.Errorf("the layer of the first release is held by %q", got)
		}
		wants := map[string]string{
			"open": "(sh) has open /usr/share/kept", "cwd": "(sh) works in /usr/share", "runs": "(sleep) runs /usr/bin/sleep",
		}
		for name, want := range wants {
			if by := holders(now, delta); !strings.Contains(by, "hold-"+name+".service: process ") || !strings.Contains(by, want) {
				t.Errorf("the delta is held by %q, want %q", by, want)
			}
		}
		if !plugged(t, v, delta) {
			t.Fatal("a layer that is held was unplugged")
		}
		matrix.Record(t, "a process uses a layer that the stack no longer needs", "after a rebase to a full layer", "it stays attached, and its users are reported")
		run(t, v, "systemctl stop hold-open hold-cwd hold-runs")
		if by := holders(read(t, v), delta); by != "" {
			t.Errorf("let go, the delta is held by %q", by)
		}
		updated, _, err := v.World.Host.Fleet.Update(t.Context(), v.Spec, func(step string) { t.Log(step) })
		must(t, err)
		if plugged(t, v, delta) || holders(updated, full) == "" {
			t.Errorf("still held are %v", updated.Held)
		}
		if got := run(t, v, "dmesg | grep -c 'I/O error' || true; cat /usr/share/mark"); got != "0\nthree" {
			t.Errorf("the guest has %q", got)
		}
		matrix.Record(t, "a layer that is no longer used", "at the next apply", "it is unplugged, and no read fails")
	}
}

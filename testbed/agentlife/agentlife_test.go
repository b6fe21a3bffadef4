package agentlife_test

import (
	"slices"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// TestTheAgentsLife runs all tests in one guest: a boot takes longer than most of them.
func TestTheAgentsLife(t *testing.T) {
	w := guest.New(t)
	w.Expected = 5 * time.Minute
	edits := func(marks ...string) (each [][]guest.Edit) {
		for _, mark := range marks {
			// This file does not change after the second release, so a process that uses it need not be restarted.
			each = append(each, append([]guest.Edit{guest.Write("usr/share/mark", 0o644, mark),
				guest.Write("usr/share/kept", 0o644, "kept")}, guest.Quick()...))
		}
		return each
	}
	first := edits("one", "two", "three")
	first[0] = slices.Delete(first[0], 1, 2)
	w.Host.Publisher.MaxChain = 2 // so the third release is one full layer; later ones are deltas again
	r, err := w.Releases(t.Context(), "debian", guest.Plain, first...)
	must(t, err)
	w.Host.Publisher.MaxChain = 0
	more, err := w.Releases(t.Context(), "debian", guest.Plain, edits("four", "five", "six")...)
	must(t, err)
	r = append(r, more...)
	v, err := w.Create(t.Context(), "life", r[0], func(spec *vm.Spec) {
		spec.DiskSize, spec.Configuration = 512<<20, guestconfig.New()
		spec.Configuration.Networks = staticLAN("10.0.2.15/24")
	})
	must(t, err)
	for _, part := range []struct {
		name string
		test func(*testing.T, *guest.VM)
	}{
		{"the first network", testFirstNetwork},
		{"the network", testNetwork},
		{"a configuration", testConfiguration},
		{"networks", testNetworks},
		{"host name and keys", testIdentity},
		{"layers that are in use", testLayers(r[:3])}, // with a login for each command, since a login uses layers, too
		{"a configuration lasts", testConfigurationLasts},
		{"another agent takes over", keepingLogin(testTakeover)},
		{"an agent that does not start is not kept", testTakeoverThatFails},
		{"the private disk grows", testGrowth},
		{"further disks", testDisks},
		{"further interfaces", testInterfaces},
		{"no room", testRoom(r[3])},
		{"many refreshes", testEndurance(r[2], r[3])},
		{"power cut", testPowerCut},
		{"read-only disk", testReadOnly(r[4])},
		{"the clock jumps", testClock(r[5])}, // last: later tests would see the effects of wrong times
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, v) })
	}
}

// keepingLogin is a test from which on the commands in the guest share an SSH connection: a login takes longer than
// most of them.
func keepingLogin(test func(*testing.T, *guest.VM)) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		v.World.KeepLogin = true
		test(t, v)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, v *guest.VM, command string) string {
	t.Helper()
	text, err := v.Run(t.Context(), command)
	must(t, err)
	return text
}

func status(t *testing.T, v *guest.VM) *agentapi.StatusResponse {
	t.Helper()
	now, err := v.Status(t.Context())
	must(t, err)
	return now
}

func await(t *testing.T, v *guest.VM, what string, done func(*agentapi.StatusResponse) bool) *agentapi.StatusResponse {
	t.Helper()
	now, err := v.Await(t.Context(), what, &agentapi.StatusRequest{}, done)
	must(t, err)
	return now
}

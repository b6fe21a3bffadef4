package vm_test

import (
	"slices"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// A link changes in a running VM, whatever its agent does. If it comes up, the VM is waited for until it has an address.
func TestTheLinkOfARunningVM(t *testing.T) {
	const waiting = "waiting for an address of lan"
	for name, c := range map[string]struct {
		silent, down bool
		setting      string
		waited       bool
	}{
		"it goes down":                {false, true, "setting the network and the link of interface lan, down", false},
		"it comes up":                 {false, false, "setting the network and the link of interface lan, up", true},
		"it goes down in a silent VM": {true, true, "setting the network and the link of interface lan, down", false},
		"it comes up in a silent VM":  {true, false, "setting the network and the link of interface lan, up", true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fleet.BootLimit, w.fleet.AddressLimit = time.Second, 3*time.Second
			asked := 0
			w.agent(t, "web-a").Addresses = func() []string {
				if asked++; asked < 4 {
					return nil
				}
				return []string{"10.0.0.2"}
			}
			spec := w.spec()
			spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0", Down: !c.down}, "out": {Bridge: "br0"}}
			w.create(t, spec)
			asked = 0
			w.guests.Silence("web-a", c.silent)
			spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0", Down: c.down}, "out": {Bridge: "br0"}}
			var steps []string
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec, func(step string) { steps = append(steps, step) })
			if err != nil {
				t.Fatal(err)
			}
			runs, err := w.hypervisor.AttachedInterfaces(t.Context(), "web-a")
			if err != nil || runs["lan"].Down != c.down || runs["out"].Down || updated.Spec.Interfaces["lan"].Down != c.down || len(updated.Faults) > 0 {
				t.Errorf("it runs with %+v, %v; the VM is %+v", runs, err, updated)
			}
			if !slices.Contains(steps, c.setting) || slices.Contains(steps, waiting) != c.waited || !c.silent && updated.Unreachable {
				t.Errorf("its steps are %q", steps)
			}
		})
	}
}

package vm_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// A link changes in a running VM, whatever its agent does. If it comes up, the VM is waited for
// until it has an address.
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
			spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0", Down: !c.down},
				"out": {Bridge: "br0"}}
			w.create(t, spec)
			asked = 0
			w.guests.Silence("web-a", c.silent)
			spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0", Down: c.down},
				"out": {Bridge: "br0"}}
			var steps []string
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec,
				func(step string) { steps = append(steps, step) })
			if err != nil {
				t.Fatal(err)
			}
			runs, err := w.hypervisor.AttachedInterfaces(t.Context(), "web-a")
			if err != nil || runs["lan"].Down != c.down || runs["out"].Down ||
				updated.Spec.Interfaces["lan"].Down != c.down || len(updated.Faults) > 0 {
				t.Errorf("it runs with %+v, %v; the VM is %+v", runs, err, updated)
			}
			if !slices.Contains(steps, c.setting) || slices.Contains(steps, waiting) != c.waited ||
				!c.silent && updated.Unreachable {
				t.Errorf("its steps are %q", steps)
			}
		})
	}
}

// Whatever cuts an update off, an error says what is done and what is not, a read shows the interfaces that
// the VM runs with, and the next update makes it as it should be: as that one wanted, or as it was before.
func TestAnUpdateOfInterfacesThatIsCutOff(t *testing.T) {
	down := errors.New("libvirt is down")
	before := map[string]hypervisor.Interface{
		"again": {Bridge: "br0"}, "gone": {Bridge: "br0"}, "link": {Bridge: "br0"}, "moves": {Bridge: "br0"}, "stays": {Bridge: "br0"},
	}
	after := map[string]hypervisor.Interface{
		"again": {Bridge: "br0", MTU: 9000}, "link": {Bridge: "br0", Down: true}, "moves": {Bridge: "br1"}, "new": {Bridge: "br1"}, "stays": {Bridge: "br0"},
	}
	for name, c := range map[string]struct {
		method string
		at     int // which call fails
		says   []string
	}{
		"the first link":     {"UpdateInterface", 1, []string{`change interface "link"`}},
		"the second network": {"UpdateInterface", 2, []string{`change interface "moves"`}},
		"the first detach": {"DetachInterface", 1,
			[]string{"Done: nothing",
				"Not done: detach interface again, detach interface gone, attach interface again"}},
		"the second detach": {"DetachInterface", 2,
			[]string{"Done: detach interface again\n", "Not done: detach interface gone"}},
		"the first attachment": {"AttachInterface", 1,
			[]string{"Done: detach interface again, detach interface gone\n",
				"Not done: attach interface again, attach interface new"}},
		"the second": {"AttachInterface", 2,
			[]string{"attach interface again\n", "Not done: attach interface new"}},
		"the definition": {"Define", 1, nil},
	} {
		for _, goOn := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, %t", name, goOn), func(t *testing.T) {
				w := newWorld(t)
				w.fleet.AddressLimit = time.Millisecond
				spec := w.spec()
				spec.Interfaces = before
				w.create(t, spec)
				calls, fails := 0, true
				w.hypervisor.Fail = func(method, _ string) error {
					if method == c.method {
						calls++
					}
					if fails && method == c.method && calls >= c.at {
						return down
					}
					return nil
				}
				spec.Interfaces = after
				_, err := w.update(t, spec)
				if !errors.Is(err, down) {
					t.Fatalf("%v", err)
				}
				for _, text := range c.says {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("it says %q, without %q", err, text)
					}
				}
				fails = false
				runs, err := w.hypervisor.AttachedInterfaces(t.Context(), spec.Name)
				if err != nil {
					t.Fatal(err)
				}
				found, err := w.fleet.Read(t.Context(), spec.Name)
				if err != nil || !maps.Equal(found.Spec.Interfaces, runs) {
					t.Errorf("it runs with %+v, and is read as %+v, %v", runs, found.Spec.Interfaces, err)
				}
				if spec.Interfaces = before; goOn {
					spec.Interfaces = after
				}
				updated, err := w.update(t, spec)
				if err != nil {
					t.Fatal(err)
				}
				runs, err = w.hypervisor.AttachedInterfaces(t.Context(), spec.Name)
				if err != nil || !maps.Equal(runs, spec.Interfaces) ||
					!maps.Equal(updated.Spec.Interfaces, spec.Interfaces) {
					t.Errorf("it runs with %+v, and is read as %+v, %v", runs, updated.Spec.Interfaces, err)
				}
				domain, state, err := w.hypervisor.Lookup(t.Context(), spec.Name)
				if err != nil || !maps.Equal(domain.Interfaces, spec.Interfaces) || state != hypervisor.Running {
					t.Errorf("it is defined with %+v, %v, %v", domain.Interfaces, state, err)
				}
				for _, call := range w.hypervisor.Calls() {
					if strings.HasPrefix(call, "PowerOff") || strings.HasPrefix(call, "Shutdown") {
						t.Errorf("it was powered off: %s", call)
					}
				}
			})
		}
	}
}

// A guest that keeps a card is not waited for without a bound, and the VM keeps the interface in its definition.
func TestAGuestThatKeepsACard(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
	w.create(t, spec)
	w.hypervisor.Deaf = true
	without := spec
	without.Interfaces = map[string]hypervisor.Interface{}
	_, _, err := w.fleet.Update(within(t, 3*time.Second), without, quiet)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "apply with running = false first") {
		t.Errorf("%v", err)
	}
	w.hypervisor.Deaf = false
	if found, err := w.fleet.Read(t.Context(), spec.Name); err != nil ||
		!maps.Equal(found.Spec.Interfaces, spec.Interfaces) || len(found.Faults) > 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := w.update(t, without); err != nil {
		t.Error(err)
	}
}

// What is not about interfaces leaves them as they are: those that the VM runs with, those of its
// definition, and those of others.
func TestARolloutLeavesInterfacesAsTheyAre(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Refresh.ByRollout = true
	spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}, "back": {Bridge: "br0"}}
	w.create(t, spec)
	added := []string{"<interface/>"}
	w.hypervisor.Alter(spec.Name, func(d *hypervisor.Domain) { d.ForeignInterfaces = added })
	w.hypervisor.Replug(spec.Name, "back", func(*hypervisor.Interface) *hypervisor.Interface { return nil })
	if _, _, err := w.fleet.Move(within(t, time.Minute), spec.Name, vm.Target{Base: w.new}, false, quiet); err != nil {
		t.Fatal(err)
	}
	domain, _, err := w.hypervisor.Lookup(t.Context(), spec.Name)
	if err != nil || !maps.Equal(domain.Interfaces, spec.Interfaces) || !slices.Equal(domain.ForeignInterfaces, added) {
		t.Errorf("it is defined with %+v and %q, %v", domain.Interfaces, domain.ForeignInterfaces, err)
	}
	if runs, err := w.hypervisor.AttachedInterfaces(t.Context(), spec.Name); err != nil || len(runs) != 1 {
		t.Errorf("it runs with %+v, %v", runs, err)
	}
	spec.Base = w.new
	if _, err := w.update(t, spec); err != nil {
		t.Fatal(err)
	}
	if domain, _, err := w.hypervisor.Lookup(t.Context(), spec.Name); err != nil ||
		!slices.Equal(domain.ForeignInterfaces, added) {
		t.Errorf("it is defined with %q, %v", domain.ForeignInterfaces, err)
	}
}

// An update waits for an address of each interface that it attaches, and no longer than it may.
func TestTheAddressOfAnInterfaceThatComes(t *testing.T) {
	w := newWorld(t)
	w.fleet.AddressLimit = 20 * time.Second
	agent := w.agent(t, "web-a")
	asked := 0
	agent.Addresses = func() []string { return []string{"10.0.0.2"} }
	agent.Interfaces = func() []*agentapi.InterfaceAddresses {
		said := []*agentapi.InterfaceAddresses{{Mac: "52:54:00:00:00:01", Addresses: []string{"10.0.0.2"}}}
		if asked++; asked > 3 {
			said = append(said, &agentapi.InterfaceAddresses{Mac: "52:54:00:00:00:02", Addresses: []string{"10.0.1.2"}})
		}
		return said
	}
	spec := w.spec()
	spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0", MAC: "52:54:00:00:00:01"}}
	w.create(t, spec)
	asked = 0
	spec.Interfaces = map[string]hypervisor.Interface{"lan": spec.Interfaces["lan"],
		"back": {Bridge: "br1", MAC: "52:54:00:00:00:02"}}
	updated, err := w.update(t, spec)
	if err != nil || fmt.Sprint(updated.Addresses) != "map[back:[10.0.1.2] lan:[10.0.0.2]]" {
		t.Errorf("%v, %v", updated.Addresses, err)
	}
}

package vm_test

import (
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// A VM that is made or started is waited for until it is ready, and only then.
func TestAStartWaitsUntilTheVMIsReady(t *testing.T) {
	w := newWorld(t)
	var asked atomic.Int64
	var addresses atomic.Int64
	w.agent(t, "web-a").Failing = func(checks []*agentapi.HealthCheck) []*agentapi.FailedCheck {
		if len(checks) != 1 || checks[0].GetUnit() != "web.service" {
			t.Errorf("it is asked for %v", checks)
		}
		if asked.Add(1) < 3 {
			return []*agentapi.FailedCheck{{Name: "web", Reason: "it is activating"}}
		}
		return nil
	}
	w.agent(t, "web-a").Addresses = func() []string {
		if addresses.Add(1) < 3 {
			return nil
		}
		return []string{"10.0.0.2"}
	}
	w.fleet.AddressLimit = time.Millisecond
	spec := w.spec()
	spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
	spec.Ready = vm.Readiness{Address: true,
		Checks: []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "web.service"}}}}
	var steps []string
	note := func(step string) { steps = append(steps, step) }
	if _, err := w.fleet.Create(within(t, time.Minute), spec, note); err != nil {
		t.Fatal(err)
	}
	if asked.Load() != 3 || !slices.Contains(steps, "waiting until it is ready: web: it is activating") {
		t.Errorf("asked %d times; steps %q", asked.Load(), steps)
	}
	spec.Hostname = "other"
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, note); err != nil || asked.Load() != 3 {
		t.Errorf("a change that starts nothing: %v, asked %d times", err, asked.Load())
	}
	spec.VCPUs, spec.Refresh.MaxImpact = 2, agentapi.Level_REBOOT
	asked.Store(0)
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, note); err != nil || asked.Load() != 3 {
		t.Errorf("a power-off and start: %v, asked %d times", err, asked.Load())
	}
}

func TestAVMThatDoesNotGetReadyIsAnErrorThatSaysWhatIsMissing(t *testing.T) {
	for says, c := range map[string]struct {
		ready   vm.Readiness
		prepare func(*testing.T, *world)
	}{
		"web: refused; db: gone": {
			vm.Readiness{Checks: []*agentapi.HealthCheck{{Name: "web"}, {Name: "db"}}},
			func(t *testing.T, w *world) {
				w.agent(t, "web-a").Failing = func([]*agentapi.HealthCheck) []*agentapi.FailedCheck {
					return []*agentapi.FailedCheck{{Name: "web", Reason: "refused"}, {Name: "db", Reason: "gone"}}
				}
			},
		},
		"and 2 more": {
			vm.Readiness{Checks: []*agentapi.HealthCheck{{Name: "web"}}},
			func(t *testing.T, w *world) {
				w.agent(t, "web-a").Failing = func([]*agentapi.HealthCheck) []*agentapi.FailedCheck {
					return slices.Repeat([]*agentapi.FailedCheck{{Name: "web", Reason: "refused"}}, 7)
				}
			},
		},
		"none of its interfaces has an address": {
			vm.Readiness{Address: true},
			func(t *testing.T, w *world) { w.agent(t, "web-a").Addresses = func() []string { return nil } },
		},
	} {
		w := newWorld(t)
		w.fleet.AddressLimit = time.Millisecond
		c.prepare(t, w)
		spec := w.spec()
		spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
		spec.Ready = c.ready
		spec.Ready.Limit = time.Second
		_, err := w.fleet.Create(within(t, time.Minute), spec, quiet)
		if !errors.Is(err, vm.ErrNotReady) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// What has to be ready may come with the configuration of the guest.
func TestAStartConfiguresTheGuestBeforeItIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	spec := w.withFile("one")
	spec.Running = false
	w.create(t, spec)
	var configured atomic.Bool
	w.agent(t, "web-a").Failing = func([]*agentapi.HealthCheck) []*agentapi.FailedCheck {
		if !configured.Load() {
			return []*agentapi.FailedCheck{{Name: "web", Reason: "there is no such unit"}}
		}
		return nil
	}
	spec.Running = true
	spec.Ready = vm.Readiness{Checks: []*agentapi.HealthCheck{{Name: "web"}}, Limit: 30 * time.Second}
	note := func(step string) { configured.CompareAndSwap(false, step == "configuring the guest") }
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, note); err != nil ||
		len(w.agent(t, "web-a").Configured()) != 1 {
		t.Errorf("configured %t, %v", configured.Load(), err)
	}
}

// The guest has committed its new stack by then: that is not taken back because a VM is not ready in time.
func TestAVMThatIsNotReadyKeepsItsNewStack(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.agent(t, "web-a").Failing = func([]*agentapi.HealthCheck) []*agentapi.FailedCheck {
		return []*agentapi.FailedCheck{{Name: "web", Reason: "refused"}}
	}
	spec := w.renewed(t, vm.Reboot)
	spec.Ready = vm.Readiness{Checks: []*agentapi.HealthCheck{{Name: "web"}}, Limit: 300 * time.Millisecond}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrNotReady) {
		t.Errorf("got %v", err)
	}
	if found := w.read(t, "web-a"); found.Stack.Base != spec.Base || found.Configured.Base != spec.Base {
		t.Errorf("it runs base %s, and its definition has %s", found.Stack.Base, found.Configured.Base)
	}
}

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
	spec.Ready = vm.Readiness{Address: true, Checks: []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "web.service"}}}}
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
			vm.Readiness{Address: true}, func(t *testing.T, w *world) { w.agent(t, "web-a").Addresses = func() []string { return nil } },
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

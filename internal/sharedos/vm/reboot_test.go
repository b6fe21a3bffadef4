package vm_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

func TestARebootPowersTheVMOffAndStartsIt(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	w.create(t, spec)
	before := len(w.hypervisor.Calls())
	rebooted, err := w.fleet.Reboot(within(t, time.Minute), spec.UUID, vm.Readiness{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	calls := w.hypervisor.Calls()[before:]
	stopped, started := slices.Index(calls, "Shutdown web-a"), slices.Index(calls, "Start web-a")
	if stopped < 0 || started < stopped || !rebooted.Answered || rebooted.ReadySeconds == 0 ||
		rebooted.Stack.Base != w.old {
		t.Errorf("the calls were %v, and the VM is %+v", calls, rebooted)
	}
}

// A reboot has the VM run the stack and the kernel that an update has left for the next power-off and start.
func TestARebootStartsWhatWaitsForIt(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.renewed(t, vm.NextBoot)
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	rebooted, err := w.fleet.Reboot(within(t, time.Minute), spec.UUID, vm.Readiness{}, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if rebooted.Stack.Base != w.new || rebooted.AwaitsPowerCycle || rebooted.Agent.GetKernel() != "6.12.2" {
		t.Errorf("the VM runs %s with kernel %s", rebooted.Stack.Base, rebooted.Agent.GetKernel())
	}
	if domain := w.defined(t); domain.Metadata.Fallback != nil {
		t.Error("the definition still has a stack to fall back to")
	}
}

func TestAVMThatDoesNotRunIsNotRebooted(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Running = false
	w.create(t, spec)
	if _, err := w.fleet.Reboot(within(t, time.Minute), spec.UUID, vm.Readiness{}, quiet); !errors.Is(err,
		hypervisor.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
	if _, err := w.fleet.Reboot(within(t, time.Minute), uuid.NewString(), vm.Readiness{},
		quiet); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("no such VM: %v", err)
	}
}

func TestAVMThatIsNotReadyAfterARebootIsAnError(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	w.create(t, spec)
	ready := vm.Readiness{
		Checks: []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "web.service"}}},
		Limit:  300 * time.Millisecond,
	}
	w.agent(t, "web-a").Failing = func([]*agentapi.HealthCheck) []*agentapi.FailedCheck {
		return []*agentapi.FailedCheck{{Name: "web", Reason: "it is activating"}}
	}
	if _, err := w.fleet.Reboot(within(t, time.Minute), spec.UUID, ready, quiet); !errors.Is(err, vm.ErrNotReady) {
		t.Errorf("got %v", err)
	}
}

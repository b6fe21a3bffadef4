package vm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Processors and memory below their maxima change in a running VM, and stay in its definition.
func TestARunningVMGetsAndGivesProcessorsAndMemory(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.VCPUs, spec.MaxVCPUs, spec.Memory, spec.MaxMemory = 2, 4, 512<<20, 1<<30
	w.create(t, spec)
	for _, to := range []struct {
		vcpus  int
		memory int64
	}{{4, 1 << 30}, {1, 256 << 20}, {2, 256 << 20}} {
		calls := w.hypervisor.Calls()
		spec.VCPUs, spec.Memory = to.vcpus, to.memory
		updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
		if err != nil || report != nil {
			t.Fatalf("%+v: %v, %v", to, report, err)
		}
		w.mustRunWith(t, to.vcpus, to.memory)
		did := w.hypervisor.Calls()[len(calls):]
		if updated.Spec.VCPUs != to.vcpus || updated.Spec.Memory != to.memory || slices.Contains(did, "Start web-a") ||
			slices.Contains(did, "PowerOff web-a") {
			t.Errorf("%+v: the VM is %+v; calls %q", to, updated.Spec, did)
		}
	}
}

func (w *world) mustRunWith(t *testing.T, vcpus int, memory int64) {
	t.Helper()
	now, err := w.hypervisor.VCPUsNow(t.Context(), "web-a")
	if err != nil || now != vcpus || w.hypervisor.MemoryNow("web-a") != memory {
		t.Errorf("it runs with %d processors and %d MiB, want %d and %d; %v", now,
			w.hypervisor.MemoryNow("web-a")>>20, vcpus, memory>>20, err)
	}
}

// What the guest does not follow is taken back, and the VM stays what its definition says.
func TestWhatAGuestDoesNotFollowIsTakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		has    func(*agentapi.ResourcesRequest) *agentapi.ResourcesResponse
		change func(*vm.Spec)
		want   error
		says   string
	}{
		"its kernel does not take a processor": {
			func(*agentapi.ResourcesRequest) *agentapi.ResourcesResponse {
				return &agentapi.ResourcesResponse{Processors: 2}
			},
			func(s *vm.Spec) { s.VCPUs = 3 }, hypervisor.ErrGuestKeeps, "its kernel has 2 processors online, not 3",
		},
		"it needs its memory": {
			func(*agentapi.ResourcesRequest) *agentapi.ResourcesResponse {
				return &agentapi.ResourcesResponse{Memory: 500 << 20, MemoryAvailable: 300 << 20}
			},
			func(s *vm.Spec) { s.Memory = 256 << 20 }, vm.ErrMemoryInUse,
			"300 MiB are available, and it is to give up 256 MiB",
		},
		"its agent is silent": {nil, func(s *vm.Spec) { s.VCPUs = 3 }, vm.ErrNoAnswer, "virsh"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fleet.BootLimit = time.Second
			spec := w.spec()
			spec.VCPUs, spec.MaxVCPUs, spec.Memory, spec.MaxMemory = 2, 4, 512<<20, 1<<30
			w.create(t, spec)
			w.agent(t, "web-a").Has = c.has
			w.guests.Silence("web-a", c.has == nil)
			c.change(&spec)
			_, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if !errors.Is(err, c.want) || c.has != nil && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("the update: %v", err)
			}
			w.mustRunWith(t, 2, 512<<20)
			if domain := w.defined(t); domain.VCPUs != 2 || domain.Memory != 512<<20 {
				t.Errorf("it is defined with %d processors and %d MiB", domain.VCPUs, domain.Memory>>20)
			}
		})
	}
}

// A number of processors that somebody has set with virsh is seen, and the next update sets both.
func TestProcessorsThatSomebodyPluggedInAreSeen(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.VCPUs, spec.MaxVCPUs = 2, 4
	w.create(t, spec)
	if err := w.hypervisor.SetVCPUs(t.Context(), "web-a", 3); err != nil {
		t.Fatal(err)
	}
	found, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || found.Spec.VCPUs != 3 || len(found.Faults) != 1 || found.Faults[0].Object != "vcpus" ||
		!found.Faults[0].Mended {
		t.Fatalf("it is read as %+v, %v", found, err)
	}
	updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || updated.Spec.VCPUs != 2 || len(updated.Faults) != 0 {
		t.Errorf("after the update it is %+v, %v", updated, err)
	}
	w.mustRunWith(t, 2, spec.Memory)
}

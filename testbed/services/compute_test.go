package services_test

import (
	"strconv"
	"strings"
	"testing"
)

// processorsAndMemory changes both while the guest runs, and asks its kernel. An emulated guest gets no more of them
// (design/0071).
func (h *house) processorsAndMemory(t *testing.T) {
	boot := h.run(t, "cat /proc/sys/kernel/random/boot_id")
	last := h.totalMemory(t)
	for _, to := range []struct {
		vcpus int
		mib   int64
	}{{1, 896}, {1, 832}, {1, 768}} {
		spec := h.vm.Spec
		spec.VCPUs, spec.Memory = to.vcpus, to.mib<<20
		grows := spec.Memory > h.vm.Spec.Memory
		updated, _, err := h.vm.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
		if err != nil {
			t.Fatalf("%+v: %v", to, err)
		}
		h.vm.Spec = spec
		if updated.Spec.VCPUs != to.vcpus || updated.Spec.Memory != to.mib<<20 || len(updated.Faults) > 0 {
			t.Errorf("%+v: the VM is %+v, with %v", to, updated.Spec, updated.Faults)
		}
		if online := h.run(t, "grep -c ^processor /proc/cpuinfo"); online != strconv.Itoa(to.vcpus) {
			t.Errorf("%+v: its kernel has %s processors", to, online)
		}
		total := h.totalMemory(t)
		if total > to.mib<<10 || (total > last) != grows {
			t.Errorf("%+v: its kernel has %d KiB, and had %d", to, total, last)
		}
		last = total
	}
	if now := h.run(t, "cat /proc/sys/kernel/random/boot_id"); now != boot {
		t.Error("it was started again")
	}
}

// totalMemory is what the guest's kernel has, in KiB.
func (h *house) totalMemory(t *testing.T) int64 {
	t.Helper()
	total, err := strconv.ParseInt(strings.Fields(h.run(t, "grep MemTotal /proc/meminfo"))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return total
}

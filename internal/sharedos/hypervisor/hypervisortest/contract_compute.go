package hypervisortest

import (
	"context"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// maxima are read back as they were defined.
func maxima(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	for _, most := range []struct {
		vcpus  int
		memory int64
	}{{4, 0}, {0, 256 << 20}, {d.VCPUs, 128 << 20}, {2, 65 << 20}, {0, 0}} {
		d.MaxVCPUs, d.MaxMemory = most.vcpus, most.memory
		must(t, h.Define(ctx, d))
		mustBeDefined(t, ctx, h, d, hypervisor.Off)
	}
}

// resources of a running domain whose guest is deaf: it gets processors unless it is emulated, and
// releases neither processors nor memory.
func resources(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	d.VCPUs, d.MaxVCPUs, d.MaxMemory = 2, 3, 128<<20
	must(t, h.Define(ctx, d))
	mustBe(t, h.SetVCPUs(ctx, d.Name, 3), hypervisor.ErrNotRunning)
	mustBe(t, h.SetMemory(ctx, d.Name, 128<<20), hypervisor.ErrNotRunning)
	_, err := h.VCPUsNow(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotRunning)
	must(t, h.Start(ctx, d.Name))
	expect := func(want int) {
		t.Helper()
		now, err := h.VCPUsNow(ctx, d.Name)
		must(t, err)
		if now != want {
			t.Errorf("it has %d processors, want %d", now, want)
		}
	}
	expect(2)
	found, _, err := h.Lookup(ctx, d.Name)
	must(t, err)
	has := 3
	for range 2 {
		if err := h.SetVCPUs(ctx, d.Name, 3); found.Emulated {
			mustBe(t, err, hypervisor.ErrEmulated)
			has = 2
		} else {
			must(t, err)
		}
		expect(has)
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	mustBe(t, h.SetMemory(short, d.Name, 100<<20), hypervisor.ErrGuestKeeps)
	short, cancel = context.WithTimeout(ctx, time.Second)
	defer cancel()
	mustBe(t, h.SetVCPUs(short, d.Name, 1), hypervisor.ErrGuestKeeps)
	expect(has)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	must(t, h.PowerOff(ctx, d.Name))
	must(t, h.Start(ctx, d.Name))
	expect(2)
}

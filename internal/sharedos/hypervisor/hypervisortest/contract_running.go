package hypervisortest

import (
	"context"
	"errors"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func startStop(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	_, err := h.Dialer(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotRunning)
	for range 2 {
		for range 2 {
			must(t, h.Start(ctx, d.Name))
		}
		mustBeDefined(t, ctx, h, d, hypervisor.Running)
		dialer, err := h.Dialer(ctx, d.Name)
		must(t, err)
		short, cancel := context.WithTimeout(ctx, time.Second)
		if conn, err := dialer.DialContext(short, 1000); err == nil {
			t.Errorf("something answers in a guest that runs nothing: %v", conn.Close())
		}
		cancel()
		for range 2 {
			must(t, h.PowerOff(ctx, d.Name))
		}
		must(t, h.Shutdown(ctx, d.Name))
		mustBeDefined(t, ctx, h, d, hypervisor.Off)
		broke, err := h.Broke(ctx, d.Name)
		must(t, err)
		if broke {
			t.Error("a domain that was powered off counts as broken")
		}
	}
	must(t, h.Undefine(ctx, d.Name))
	mustBe(t, h.Undefine(ctx, d.Name), hypervisor.ErrNotFound)
}

func missingFiles(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	for name, path := range map[string]func(hypervisor.Domain) string{
		"kernel":       func(d hypervisor.Domain) string { return d.Kernel },
		"layer":        func(d hypervisor.Domain) string { return d.Layers[1].Path },
		"private disk": func(d hypervisor.Domain) string { return d.PrivateDisk },
	} {
		d := Domain(t, h)
		must(t, h.Define(ctx, d))
		must(t, os.Remove(path(d)))
		if err := h.Start(ctx, d.Name); err == nil {
			t.Errorf("started without its %s", name)
		}
		mustBeDefined(t, ctx, h, d, hypervisor.Off)
	}
}

func undefineRunning(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	must(t, h.Start(ctx, d.Name))
	if err := h.Undefine(ctx, d.Name); err == nil {
		t.Error("a running domain was undefined")
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
}

func deaf(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	must(t, h.Start(ctx, d.Name))
	for name, ask := range map[string]func(context.Context) error{
		"shutdown": func(ctx context.Context) error { return h.Shutdown(ctx, d.Name) },
		"detach":   func(ctx context.Context) error { return h.DetachLayer(ctx, d.Name, d.Layers[1].ID) },
	} {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		before := time.Now()
		err := ask(short)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got error %v, want %v", name, err, context.DeadlineExceeded)
		}
		if took := time.Since(before); took > 10*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
		mustBeDefined(t, ctx, h, d, hypervisor.Running)
	}
}

func bootFiles(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	mustBoot(t, ctx, h, map[string]bool{d.Kernel: true, d.Initramfs: true})
	must(t, h.Start(ctx, d.Name))
	next := d
	next.Kernel, next.Initramfs = d.Kernel+"-next", d.Initramfs+"-next"
	must(t, h.Define(ctx, next))
	mustBoot(t, ctx, h, map[string]bool{d.Kernel: true, d.Initramfs: true, next.Kernel: true, next.Initramfs: true})
	must(t, h.PowerOff(ctx, d.Name))
	mustBoot(t, ctx, h, map[string]bool{d.Kernel: false, d.Initramfs: false, next.Kernel: true, next.Initramfs: true})
	must(t, h.Undefine(ctx, d.Name))
	mustBoot(t, ctx, h, map[string]bool{next.Kernel: false, next.Initramfs: false})
}

func mustBoot(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, want map[string]bool) {
	t.Helper()
	got, err := h.BootFiles(ctx)
	must(t, err)
	for path, booted := range want {
		if slices.Contains(got, path) != booted {
			t.Errorf("%s: listed as a boot file is %v, want %v", path, !booted, booted)
		}
	}
}

package hypervisortest

import (
	"context"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func descriptions(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	d.Foreign = []string{`<a:owner xmlns:a="urn:example:a">ops</a:owner>`}
	must(t, h.Define(ctx, d))
	for _, state := range []hypervisor.State{hypervisor.Off, hypervisor.Running} {
		for _, text := range []string{"one & <two>", "three é", " ", ""} {
			d.Title, d.Description = text, text+"\n"+text
			if text == "" {
				d.Description = ""
			}
			must(t, h.SetTitle(ctx, d.Name, d.Title))
			must(t, h.SetDescription(ctx, d.Name, d.Description))
			mustBeDefined(t, ctx, h, d, state)
			d.Metadata.AgentKey += "k" // which the texts outlast, as do elements of others
			must(t, h.SetMetadata(ctx, d.Name, d.Metadata))
			mustBeDefined(t, ctx, h, d, state)
		}
		must(t, h.Start(ctx, d.Name))
	}
	if err := h.SetTitle(ctx, d.Name, "a\nb"); err == nil {
		t.Error("a title of two lines was accepted")
	}
	if err := h.SetDescription(ctx, d.Name, "a\x00"); err == nil {
		t.Error("a description with a control character was accepted")
	}
	must(t, h.SetTitle(ctx, d.Name, "set while it runs"))
	d.Title = "set while it runs"
	must(t, h.PowerOff(ctx, d.Name))
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
}

func autostart(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d, other := Domain(t, h), Domain(t, h)
	must(t, h.Define(ctx, d))
	must(t, h.Define(ctx, other))
	mustAutostart := func(want bool) {
		t.Helper()
		found, err := h.Autostarted(ctx)
		must(t, err)
		if found[d.UUID] != want || found[other.UUID] {
			t.Errorf("that start with the host: %v, want %s: %v, and not %s", found, d.UUID, want, other.UUID)
		}
	}
	mustAutostart(false)
	for range 2 {
		must(t, h.SetAutostart(ctx, d.Name, true))
		mustAutostart(true)
	}
	d.VCPUs = 2
	must(t, h.Define(ctx, d))
	mustAutostart(true)
	must(t, h.Start(ctx, d.Name))
	for range 2 {
		must(t, h.SetAutostart(ctx, d.Name, false))
		mustAutostart(false)
	}
	must(t, h.SetAutostart(ctx, d.Name, true))
	must(t, h.PowerOff(ctx, d.Name))
	mustAutostart(true)
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	must(t, h.Undefine(ctx, d.Name))
	mustAutostart(false)
	must(t, h.Define(ctx, d))
	mustAutostart(false)
	_, err := h.StartsAlone(ctx)
	must(t, err)
}

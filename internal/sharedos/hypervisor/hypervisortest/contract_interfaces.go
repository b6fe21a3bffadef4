package hypervisortest

import (
	"context"
	"maps"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func models(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, bridge string) {
	d := Domain(t, h)
	d.Interfaces = map[string]hypervisor.Interface{
		"a": {Bridge: bridge, MTU: 1400}, "b": {User: &hypervisor.UserNetwork{}, MTU: 9000}, "c": {Bridge: bridge, MAC: "52:54:00:01:02:03", Down: true},
	}
	for _, model := range hypervisor.Models[1:] {
		d.Interfaces[model] = hypervisor.Interface{Bridge: bridge, Model: model}
		d.Interfaces[model+"-user"] = hypervisor.Interface{User: &hypervisor.UserNetwork{}, Model: model}
	}
	named := d
	named.Interfaces = maps.Clone(d.Interfaces)
	one := named.Interfaces["a"]
	one.MAC, one.Model = hypervisor.MAC(d.UUID, "a"), hypervisor.Virtio // as it is anyhow
	named.Interfaces["a"] = one
	must(t, h.Define(ctx, named))
	must(t, h.Start(ctx, d.Name))
	// The definition of a domain that has run is read back as it was written.
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeDown(t, ctx, h, d.Name, "c")
}

func links(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, bridge string) {
	d := Domain(t, h)
	d.Interfaces = map[string]hypervisor.Interface{
		"lan": {Bridge: bridge, MTU: 1400}, "back": {Bridge: bridge, Model: "e1000e", MAC: "52:54:00:01:02:03"}, "out": {User: &hypervisor.UserNetwork{}},
	}
	set := func(iface string, down bool) {
		t.Helper()
		must(t, h.SetLink(ctx, d.Name, iface, down))
		one := d.Interfaces[iface]
		one.Down = down
		d.Interfaces[iface] = one
	}
	must(t, h.Define(ctx, d))
	mustBe(t, h.SetLink(ctx, d.Name, "out", true), hypervisor.ErrNoInterface)
	mustBe(t, h.SetLink(ctx, d.Name, "none", true), hypervisor.ErrNoInterface)
	for range 2 {
		set("lan", true)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	mustBeOff := func() {
		t.Helper()
		_, err := h.LinksDown(ctx, d.Name)
		mustBe(t, err, hypervisor.ErrNotRunning)
	}
	mustBeOff()
	must(t, h.Start(ctx, d.Name))
	mustBeDown(t, ctx, h, d.Name, "lan")
	for range 2 {
		set("back", true)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeDown(t, ctx, h, d.Name, "back", "lan")
	set("lan", false)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeDown(t, ctx, h, d.Name, "back")
	// A definition changes no link of the running domain. The next SetLink changes what differs.
	lan := d.Interfaces["lan"]
	lan.Down = true
	d.Interfaces["lan"] = lan
	must(t, h.Define(ctx, d))
	mustBeDown(t, ctx, h, d.Name, "back")
	set("lan", true)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeDown(t, ctx, h, d.Name, "back", "lan")
	must(t, h.PowerOff(ctx, d.Name))
	mustBeOff()
}

func mustBeDown(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, name string, want ...string) {
	t.Helper()
	got, err := h.LinksDown(ctx, name)
	must(t, err)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the links that are down are %q, want %q", got, want)
	}
}

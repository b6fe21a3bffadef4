package hypervisortest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func models(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, bridge string) {
	d := Domain(t, h)
	d.VCPUs = 2
	d.Interfaces = map[string]hypervisor.Interface{
		"q": {Bridge: bridge, Queues: 2}, "a": {Bridge: bridge, MTU: 1400},
		"b": {User: &hypervisor.UserNetwork{}, MTU: 9000}, "c": {Bridge: bridge, MAC: "52:54:00:01:02:03", Down: true},
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
	// The definition of a domain that has run is read back as it was written, and so is what runs.
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustRun(t, ctx, h, d)
}

func links(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, bridge string) {
	d := Domain(t, h)
	d.Interfaces = map[string]hypervisor.Interface{
		"lan": {Bridge: bridge, MTU: 1400}, "back": {Bridge: bridge, Model: "e1000e", MAC: "52:54:00:01:02:03"}, "out": {User: &hypervisor.UserNetwork{}},
	}
	set := func(iface string, down bool) {
		t.Helper()
		one := d.Interfaces[iface]
		one.Down = down
		must(t, h.UpdateInterface(ctx, d.Name, iface, one))
		d.Interfaces[iface] = one
	}
	must(t, h.Define(ctx, d))
	mustBe(t, h.UpdateInterface(ctx, d.Name, "out", d.Interfaces["lan"]), hypervisor.ErrNoInterface)
	mustBe(t, h.UpdateInterface(ctx, d.Name, "none", d.Interfaces["lan"]), hypervisor.ErrNoInterface)
	for range 2 {
		set("lan", true)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	mustBeOff := func() {
		t.Helper()
		_, err := h.AttachedInterfaces(ctx, d.Name)
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
	// A definition changes no link of the running domain. The next call changes what differs.
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
	attached, err := h.AttachedInterfaces(ctx, name)
	must(t, err)
	var got []string
	for iface, one := range attached {
		if one.Down {
			got = append(got, iface)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the links that are down are %q, want %q", got, want)
	}
}

// mustRun compares the interfaces of a running domain with those that it is to have.
func mustRun(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, d hypervisor.Domain) {
	t.Helper()
	got, err := h.AttachedInterfaces(ctx, d.Name)
	must(t, err)
	if diff := cmp.Diff(known(d), got, cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("the domain runs with other interfaces (-want +got):\n%s", diff)
	}
}

func plugs(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, bridge, other string) {
	d := Domain(t, h)
	d.VCPUs = 2
	d.Interfaces = map[string]hypervisor.Interface{"out": {User: &hypervisor.UserNetwork{}}}
	must(t, h.Define(ctx, d))
	set := func(iface string, one *hypervisor.Interface) {
		d.Interfaces = maps.Clone(d.Interfaces)
		if delete(d.Interfaces, iface); one != nil {
			d.Interfaces[iface] = *one
		}
	}
	attach := func(iface string, one hypervisor.Interface) {
		t.Helper()
		must(t, h.AttachInterface(ctx, d.Name, iface, one, hypervisor.LayerPorts))
		set(iface, &one)
	}
	for range 2 {
		attach("lan", hypervisor.Interface{Bridge: bridge, MTU: 1400})
	}
	attach("back", hypervisor.Interface{Bridge: bridge})
	must(t, h.DetachInterface(ctx, d.Name, "none"))
	must(t, h.DetachInterface(ctx, d.Name, "back"))
	set("back", nil)
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	_, err := h.AttachedInterfaces(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotRunning)
	must(t, h.Start(ctx, d.Name))
	mustRun(t, ctx, h, d)
	room, err := h.RoomForDisks(ctx, d.Name)
	must(t, err)
	for range 2 {
		attach("two", hypervisor.Interface{Bridge: bridge, Queues: 2, MAC: "52:54:00:00:00:02"})
		attach("e", hypervisor.Interface{Bridge: bridge, Model: "e1000e", Down: true})
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustRun(t, ctx, h, d)
	if less, err := h.RoomForDisks(ctx, d.Name); err != nil || less != room-2 {
		t.Errorf("room for %d more, after two of %d were attached: %v", less, room, err)
	}
	// A definition changes nothing in the running domain. The next call changes what differs.
	without := d
	without.Interfaces = map[string]hypervisor.Interface{"lan": d.Interfaces["lan"]}
	must(t, h.Define(ctx, without))
	mustRun(t, ctx, h, d)
	down := d.Interfaces["two"]
	down.Down = true
	must(t, h.UpdateInterface(ctx, d.Name, "two", down))
	mustBeDown(t, ctx, h, d.Name, "e", "two")
	must(t, h.UpdateInterface(ctx, d.Name, "two", d.Interfaces["two"]))
	mustBeDefined(t, ctx, h, without, hypervisor.Running)
	attach("two", d.Interfaces["two"])
	attach("e", d.Interfaces["e"])
	set("out", nil)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	// An interface moves with its link up, or down, and where it is already.
	one := d.Interfaces["two"]
	for _, move := range []struct {
		to   string
		down bool
	}{{other, false}, {other, false}, {bridge, true}, {other, true}, {bridge, false}} {
		one.Bridge, one.Down = move.to, move.down
		must(t, h.UpdateInterface(ctx, d.Name, "two", one))
		set("two", &one)
		mustRun(t, ctx, h, d)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	// The guest is deaf, so it releases no card.
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	mustBe(t, h.DetachInterface(short, d.Name, "e"), context.DeadlineExceeded)
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	for i := range room - 2 {
		attach(fmt.Sprintf("more-%d", i), hypervisor.Interface{Bridge: bridge})
	}
	mustBe(t, h.AttachInterface(ctx, d.Name, "last", hypervisor.Interface{Bridge: bridge}, hypervisor.LayerPorts),
		hypervisor.ErrNoPort)
	mustRun(t, ctx, h, d)
	last := hypervisor.Interface{Bridge: bridge}
	must(t, h.AttachInterface(ctx, d.Name, "last", last, 0)) // as one that was detached before
	set("last", &last)
	mustRun(t, ctx, h, d)
	must(t, h.PowerOff(ctx, d.Name))
	for iface := range d.Interfaces {
		if iface != "lan" {
			must(t, h.DetachInterface(ctx, d.Name, iface))
			set(iface, nil)
		}
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
}

func wrongInterfaces(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, bridge string) {
	d := Domain(t, h)
	d.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: bridge, MAC: "52:54:00:00:00:01"}}
	must(t, h.Define(ctx, d))
	mustBe(t, h.AttachInterface(ctx, d.Name, "user",
		hypervisor.Interface{User: &hypervisor.UserNetwork{}}, hypervisor.LayerPorts),
		hypervisor.ErrNoInterface)
	vlan := hypervisor.Interface{Bridge: bridge, VLAN: 7}
	mustBe(t, h.AttachInterface(ctx, d.Name, "vlan", vlan, hypervisor.LayerPorts), hypervisor.ErrNoVLAN)
	for name, one := range map[string]hypervisor.Interface{
		"a.b":     {Bridge: bridge},
		"none":    {},
		"both":    {Bridge: bridge, Network: "default"},
		"twice":   {Bridge: bridge, MAC: "52:54:00:00:00:01"},
		"mac":     {Bridge: bridge, MAC: "52:54:00:00:00:0A"},
		"model":   {Bridge: bridge, Model: "igb"},
		"queues":  {Bridge: bridge, Queues: 2},
		"many":    {Bridge: bridge, Queues: hypervisor.MaxQueues + 1},
		"tag":     {Bridge: bridge, VLAN: 4095},
		"network": {Network: "default", VLAN: 7},
	} {
		if err := h.AttachInterface(ctx, d.Name, name, one, hypervisor.LayerPorts); err == nil {
			t.Errorf("interface %s was accepted", name)
		}
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	// What a definition has is not started in another VLAN than its own.
	d.Interfaces["vlan"] = vlan
	must(t, h.Define(ctx, d))
	mustBe(t, h.Start(ctx, d.Name), hypervisor.ErrNoVLAN)
}

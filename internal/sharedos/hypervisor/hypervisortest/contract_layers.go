package hypervisortest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func layersOff(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	third := hypervisor.LayerDevice{ID: tree.Sum([]byte(d.Name + "third")), Path: d.Layers[0].Path}
	for range 2 {
		must(t, h.AttachLayer(ctx, d.Name, third))
	}
	first := d.Layers[0]
	d.Layers = append(d.Layers, third)
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	for range 2 {
		must(t, h.DetachLayer(ctx, d.Name, first.ID))
	}
	d.Layers = d.Layers[1:]
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	if err := h.AttachLayer(ctx, d.Name, hypervisor.LayerDevice{ID: first.ID, Path: "relative"}); err == nil {
		t.Error("a layer at a relative path was accepted")
	}
}

func layersRunning(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	must(t, h.Start(ctx, d.Name))
	for i := range 4 {
		layer := hypervisor.LayerDevice{ID: tree.Sum([]byte(fmt.Sprint(d.Name, i))), Path: d.Layers[0].Path}
		for range 2 {
			must(t, h.AttachLayer(ctx, d.Name, layer))
		}
		d.Layers = append(d.Layers, layer)
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeAttached(t, ctx, h, d.Name, d.Layers)
	missing := hypervisor.LayerDevice{ID: tree.Sum([]byte("missing")), Path: d.PrivateDisk + "-missing"}
	if err := h.AttachLayer(ctx, d.Name, missing); err == nil {
		t.Error("a layer without a file was attached")
	}
	must(t, h.DetachLayer(ctx, d.Name, missing.ID))
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	all := d.Layers
	d.Layers = d.Layers[:2]
	must(t, h.Define(ctx, d)) // the running domain keeps its layers
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeAttached(t, ctx, h, d.Name, all)
	must(t, h.AttachLayer(ctx, d.Name, all[2])) // the running domain has it, and the definition does not
	d.Layers = all[:3:3]
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeAttached(t, ctx, h, d.Name, all)
	must(t, h.PowerOff(ctx, d.Name))
	mustBeAttached(t, ctx, h, d.Name, nil)
	must(t, h.Start(ctx, d.Name))
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	mustBeAttached(t, ctx, h, d.Name, d.Layers)
}

func layersRoom(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	d.Layers = d.Layers[:1]
	must(t, h.Define(ctx, d))
	must(t, h.Start(ctx, d.Name))
	more := func(i int) hypervisor.LayerDevice {
		return hypervisor.LayerDevice{ID: tree.Sum([]byte(fmt.Sprint(d.Name, "more", i))), Path: d.Layers[0].Path}
	}
	const room = hypervisor.SpareLayers + hypervisor.SpareDisks
	for i := range room {
		must(t, h.AttachLayer(ctx, d.Name, more(i)))
	}
	mustBe(t, h.AttachLayer(ctx, d.Name, more(room)), hypervisor.ErrNoPort)
	must(t, h.AttachLayer(ctx, d.Name, more(0)))
	must(t, h.PowerOff(ctx, d.Name))
	must(t, h.AttachLayer(ctx, d.Name, more(room)))
	d, _, err := h.Lookup(ctx, d.Name)
	must(t, err)
	must(t, h.Define(ctx, d))
	must(t, h.Start(ctx, d.Name))
	must(t, h.AttachLayer(ctx, d.Name, more(room+1)))
}

func mustBeAttached(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, name string,
	want []hypervisor.LayerDevice) {
	t.Helper()
	got, err := h.AttachedLayers(ctx, name)
	must(t, err)
	if len(got) != len(want) {
		t.Errorf("%d layers are attached, want %d: %v", len(got), len(want), got)
	}
	for _, layer := range want {
		if !slices.Contains(got, layer.ID) {
			t.Errorf("layer %s is not attached: %v", layer.ID, got)
		}
	}
}

package acceptance

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// TestAgentInAGuestKeepsTheContract runs the contract test of the fake agent on the agent of a real guest.
func TestAgentInAGuestKeepsTheContract(t *testing.T) {
	w := newWorld(t)
	port, err := testbed.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	name := w.bed.Name("web")
	w.work.Variables = map[string]any{
		"base": "debian-13", "archive": leanTar(t, ""), "vms": map[string]any{name: map[string]any{"http": port}},
	}
	w.takeSlot(t, 7*time.Minute)
	w.mustApply(t)
	current := w.release(t)
	w.work.Variables["archive"] = leanTar(t, "\x00")
	w.mustApply(t, "-target=sharedos_base.os")
	next := w.release(t)

	operator, err := release.LoadOrCreateKey(filepath.Join(w.bed.Dir(), "operator.key"))
	if err != nil {
		t.Fatal(err)
	}
	dialer, err := w.host.Fleet.Hypervisor.Dialer(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	subject := agenttest.Subject{Dialer: dialer, Operator: operator}
	var before, manifest *release.StackManifest
	if subject.Current, before, err = guest.Stack(t.Context(), w.host.Publisher, operator, current); err != nil {
		t.Fatal(err)
	}
	if subject.Next, manifest, err = guest.Stack(t.Context(), w.host.Publisher, operator, next); err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		path, err := w.host.Store.LayerPath(t.Context(), layer.ID)
		if err == nil {
			err = w.host.Fleet.Hypervisor.AttachLayer(t.Context(), name,
				hypervisor.LayerDevice{ID: layer.ID, Path: path})
		}
		if err != nil {
			t.Fatal(fmt.Errorf("attach layer %s: %w", layer.ID, err))
		}
	}
	for _, blob := range []release.Blob{before.Contents, manifest.Contents} {
		list, err := w.host.Store.GetBlob(t.Context(), blob)
		if err != nil {
			t.Fatal(err)
		}
		subject.Contents = append(subject.Contents, list)
	}
	agenttest.Contract(t, subject)

	// The host did not take part in these refreshes. The next apply finds that the guest runs what it should, and
	// updates the definition.
	w.mustApply(t)
	w.mustBeSettled(t)
	mustServe(t, port)
}

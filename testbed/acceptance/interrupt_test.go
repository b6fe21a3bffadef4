package acceptance

import (
	"context"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// TestAnInterruptedApplyConverges interrupts applies with Ctrl-C, in each of their long steps,
// kills one during a refresh, and applies again.
func TestAnInterruptedApplyConverges(t *testing.T) {
	w := newWorld(t)
	port, err := testbed.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	name := w.bed.Name("web")
	hold := newCheckHold(t)
	vms := map[string]any{name: map[string]any{"http": port}}
	health := map[string]any{"web": map[string]any{"unit": "nginx.service"}, "hold": hold.check()}
	plain, patch := leanTar(t, ""), leanTar(t, "\x00")
	w.work.Variables = map[string]any{
		"base": "debian-13", "vms": vms, "health": health,
		// A trigger of its own makes it an input that was never built, so that there is a build to interrupt.
		"debian": map[string]any{"packages": guest.Packages, "triggers": map[string]any{"run": time.Now().String()}},
	}
	w.applyUntil(t, stepBuild)

	w.work.Variables = map[string]any{"base": "debian-13", "vms": vms, "health": health, "archive": plain}
	w.applyUntil(t, stepUpload)
	w.takeSlot(t, 5*time.Minute)
	w.applyUntil(t, stepBoot)
	_, _, err = w.host.Fleet.Hypervisor.Lookup(t.Context(), name)
	if err != nil {
		t.Fatalf("the VM whose creation was interrupted: %v", err)
	}
	w.mustApply(t)
	mustServe(t, port)
	w.mustBeSettled(t)
	booted := w.status(t, name)
	for _, step := range []string{"a base is built", "a layer is uploaded", "a VM boots for the first time"} {
		matrix.Record(t, "Ctrl-C", step, converges)
	}

	w.work.Variables["archive"] = patch
	hold.hold()
	w.applyUntil(t, stepRefresh)
	hold.release()
	w.mustApply(t)
	mustServe(t, port)
	w.mustBeSettled(t)
	patched := w.status(t, name)
	if patched.GetBootId() != booted.GetBootId() || patched.GetStack().GetBase() != w.release(t).String() {
		t.Fatalf("the VM runs %s, boot %s then %s", patched.GetStack().GetBase(),
			booted.GetBootId(), patched.GetBootId())
	}

	matrix.Record(t, "Ctrl-C", "a VM is refreshed", converges+runsOn)

	before := w.release(t)
	w.work.Variables["archive"] = leanTar(t, "\x00\x00")
	w.work.Abrupt = true
	hold.hold()
	w.applyUntil(t, stepRefresh)
	w.work.Abrupt = false
	left := w.work.Left()
	t.Cleanup(func() {
		if err := left.End(); err != nil {
			t.Error(err)
		}
	})
	if alive, err := left.Alive(); err != nil || !alive {
		t.Errorf("the provider ended with Terraform: %v", err)
	}
	hold.release()
	w.mustApply(t)
	w.mustEnd(t, left)
	mustServe(t, port)
	w.mustBeSettled(t)
	if now := w.status(t, name); now.GetBootId() != booted.GetBootId() ||
		now.GetStack().GetBase() != w.release(t).String() || w.release(t) == before {
		t.Fatalf("the VM runs %s, boot %s then %s", now.GetStack().GetBase(), booted.GetBootId(), now.GetBootId())
	}

	matrix.Record(t, "SIGKILL of Terraform while its provider continues", "a VM is refreshed", converges+runsOn)

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := w.work.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	w.mustBeEmpty(t)
}

// Outcomes of the fault matrix.
const (
	converges = "the next apply converges"
	runsOn    = ", the VM keeps running"
)

// Parts of the messages of Terraform and the provider that show which step they are in.
const (
	stepBuild   = "mmdebstrap"
	stepUpload  = "uploading the layer"
	stepBoot    = "waiting for the agent"
	stepRefresh = "refresh: "
)

package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// TestARealPatchReachesARunningVM follows one VM from its creation through a real patch of Debian to its end.
func TestARealPatchReachesARunningVM(t *testing.T) {
	w := newWorld(t)
	port, err := testbed.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	name := w.bed.Name("web")
	vm := fmt.Sprintf("sharedos_vm.web[%q]", name)
	w.work.Variables = map[string]any{
		"base": "debian-13", "archive": debianTar(t, []string{}),
		"vms": map[string]any{name: map[string]any{"http": port}},
	}

	w.takeSlot(t, 3*time.Minute)
	w.mustApply(t)
	mustServe(t, port)
	w.mustBeSettled(t)
	old := w.release(t)
	booted := w.status(t, name)
	if booted.GetStack().GetBase() != old.String() || booted.GetSystemState() != "running" {
		t.Fatalf("the VM runs %s and is %s", booted.GetStack().GetBase(), booted.GetSystemState())
	}

	w.work.Variables["archive"] = patchedTar(t)
	w.planShowsThePatch(t, vm)
	w.refusesATamperedLayer(t, name, booted)
	w.rollsBackWhenHealthFails(t, name, booted)

	w.mustApply(t)
	mustServe(t, port)
	patched := w.status(t, name)
	if patched.GetStack().GetBase() != w.release(t).String() || w.release(t) == old {
		t.Fatalf("the VM runs %s", patched.GetStack().GetBase())
	}
	if patched.GetBootId() != booted.GetBootId() {
		t.Fatal("the VM was rebooted by a live refresh")
	}
	oldKernel, newKernel := w.kernel(t, old), w.kernel(t, w.release(t))
	pending := slices.ContainsFunc(patched.GetPending(), func(s string) bool { return strings.Contains(s, newKernel) })
	if pending != (oldKernel != newKernel) {
		t.Errorf("kernel %s became %s, and pending is %v", oldKernel, newKernel, patched.GetPending())
	}
	if remaining := patched.GetLast().GetRemaining(); len(remaining) > 0 {
		t.Errorf("processes still run old code: %v", remaining)
	}
	// What the agent finds now is what the refresh has reported, and the layer whose tampered block
	// was refused is whole again.
	if remaining, unreadable := patched.GetRemaining(), patched.GetUnreadable(); len(remaining)+len(unreadable) > 0 {
		t.Errorf("processes run old code now: %v; layers cannot be read: %v", remaining, unreadable)
	}
	w.runsTheNewLibrary(t, name, libssl, "nginx.service")
	w.runsTheNewLibrary(t, name, libcrypto, "ssh.service")
	w.mustBeSettled(t)

	if err := w.host.Fleet.Hypervisor.PowerOff(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	w.mustApply(t) // which starts it again, from its definition, with the new kernel
	rebooted := w.status(t, name)
	if rebooted.GetStack().GetBase() != w.release(t).String() || rebooted.GetKernel() != newKernel ||
		len(rebooted.GetPending()) > 0 {
		t.Errorf("after a power cycle it runs base %s, kernel %s, pending %v",
			rebooted.GetStack().GetBase(), rebooted.GetKernel(), rebooted.GetPending())
	}
	w.mustBeSettled(t)

	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := w.work.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	w.mustBeEmpty(t)
}

// planShowsThePatch fails unless the plan updates everything in place, knows the release, and names the units that
// are interrupted.
func (w *world) planShowsThePatch(t *testing.T, vm string) {
	t.Helper()
	for _, change := range w.plan(t).Changes {
		if !change.Is("update") {
			t.Errorf("the plan wants to %v %s", change.Change.Actions, change.Address)
		}
		var after struct {
			Release string `json:"release"`
			Impact  *struct {
				Level string `json:"level"`
				Units map[string]struct {
					Level string `json:"level"`
				} `json:"units"`
			} `json:"impact"`
		}
		if err := json.Unmarshal(change.Change.After, &after); err != nil {
			t.Fatal(err)
		}
		switch {
		case change.Address == vm:
			if after.Impact == nil || after.Impact.Level != "restart" {
				t.Errorf("the plan's impact is %+v", after.Impact)
				continue
			}
			units := fmt.Sprint(after.Impact.Units)
			if !strings.Contains(units, "nginx.service") || !strings.Contains(units, "ssh.service") {
				t.Errorf("the plan names %s", units)
			}
		case after.Release == "":
			t.Errorf("the plan does not know the release of %s", change.Address)
		}
	}
}

// refusesATamperedLayer changes one byte of the patch's layer on disk. The guest must refuse it and run on.
func (w *world) refusesATamperedLayer(t *testing.T, name string, booted *agentapi.StatusResponse) {
	t.Helper()
	w.mustApply(t, "-target=sharedos_base.os")
	manifest, err := w.host.Publisher.Get(t.Context(), w.release(t))
	if err != nil {
		t.Fatal(err)
	}
	delta := manifest.Layers[len(manifest.Layers)-1]
	if !delta.Delta {
		t.Fatalf("the patch is no delta: %+v", manifest.Layers)
	}
	path, err := w.host.Store.LayerPath(t.Context(), delta.ID)
	if err != nil {
		t.Fatal(err)
	}
	restore := flip(t, path, delta.DataSize/2)
	err = w.apply(t)
	if err == nil {
		t.Fatal("a tampered layer was taken")
	}
	if !guest.Says(err, delta.ID.Hex()) {
		t.Errorf("the error does not name the layer: %v", err)
	}
	w.mustRun(t, name, booted)
	restore()
}

// flip changes one byte of a file, and returns what changes it back.
func flip(t *testing.T, path string, offset int64) func() {
	t.Helper()
	change := func() {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		one := make([]byte, 1)
		_, err = file.ReadAt(one, offset)
		one[0] ^= 0xff
		_, writeErr := file.WriteAt(one, offset)
		if err := errors.Join(err, writeErr, file.Sync(), file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	change()
	return change
}

// rollsBackWhenHealthFails gives the VM a health check that passes before the refresh and fails after it.
func (w *world) rollsBackWhenHealthFails(t *testing.T, name string, booted *agentapi.StatusResponse) {
	t.Helper()
	// It passes only while the old OpenSSL is installed.
	check := []string{"/bin/sh", "-c",
		"sha256sum /usr/lib/*" + libssl + " | grep -q " + w.digest(t, w.running(t, booted), libssl).Hex()}
	healthy := w.work.Variables["health"]
	w.work.Variables["health"] = map[string]any{"old-openssl": map[string]any{"command": check}}
	err := w.apply(t)
	if err == nil {
		t.Fatal("a refresh with a failing health check was committed")
	}
	if !guest.Says(err, "old-openssl") {
		t.Errorf("the error does not name the health check: %v", err)
	}
	w.mustRun(t, name, booted)
	if healthy == nil {
		delete(w.work.Variables, "health")
	} else {
		w.work.Variables["health"] = healthy
	}
}

// running returns the release that a VM runs.
func (w *world) running(t *testing.T, status *agentapi.StatusResponse) tree.Digest {
	t.Helper()
	id, err := tree.ParseDigest(status.GetStack().GetBase())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// kernel is the kernel of a release.
func (w *world) kernel(t *testing.T, id tree.Digest) string {
	t.Helper()
	manifest, err := w.host.Publisher.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return manifest.Kernel.Release
}

// mustRun fails unless the VM runs the same stack as before, has not rebooted, and no refresh is in progress.
func (w *world) mustRun(t *testing.T, name string, before *agentapi.StatusResponse) {
	t.Helper()
	now := w.status(t, name)
	if now.GetStack().GetBase() != before.GetStack().GetBase() || now.GetBootId() != before.GetBootId() ||
		now.GetState() != agentapi.State_IDLE {
		t.Fatalf("the VM runs %s in state %s, and ran %s", now.GetStack().GetBase(), now.GetState(),
			before.GetStack().GetBase())
	}
}

// runsTheNewLibrary fails unless the unit's processes map the library of the release in Terraform's state, and no
// process maps another.
func (w *world) runsTheNewLibrary(t *testing.T, name, suffix, unit string) {
	t.Helper()
	want := w.digest(t, w.release(t), suffix)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	agent, err := w.host.Fleet.Agent(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Close() }()
	answer, err := agent.Mapped(ctx, &agentapi.MappedRequest{Suffix: suffix})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, file := range answer.GetFiles() {
		found = found || file.GetUnit() == unit
		if file.GetDigest() != want.String() {
			t.Errorf("%s (%s, pid %d) maps another %s", file.GetCommand(), file.GetUnit(),
				file.GetPid(), file.GetPath())
		}
	}
	if !found {
		t.Errorf("no process of %s maps %s: %v", unit, suffix, answer.GetFiles())
	}
}

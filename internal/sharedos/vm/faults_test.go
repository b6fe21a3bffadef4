package vm_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

func TestWhatAVMLacksIsReadAndMendedAndNeverForbidsItsDeletion(t *testing.T) {
	remove := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	base := func(w *world, t *testing.T) release.Layer { return w.defined(t).Metadata.Stack.Layers[0] }
	for name, test := range map[string]struct {
		damage func(*testing.T, *world)
		object string
		mended bool
	}{
		"the private disk": {func(t *testing.T, w *world) { remove(t, w.defined(t).PrivateDisk) }, "private disk", false},
		"the private disk of the definition": {func(_ *testing.T, w *world) {
			w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.PrivateDisk = "" })
		}, "private disk", true},
		"a layer in the pool": {func(t *testing.T, w *world) { remove(t, w.store.Path(store.LayerName(base(w, t).ID))) }, "layer", false},
		"a part of a layer in the pool": {func(t *testing.T, w *world) {
			if err := os.Truncate(w.store.Path(store.LayerName(base(w, t).ID)), 4096); err != nil {
				t.Fatal(err)
			}
		}, "layer", false},
		"a layer of the definition": {func(_ *testing.T, w *world) {
			w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Layers = nil })
		}, "layer", true},
		"a layer of the running VM": {func(t *testing.T, w *world) { w.hypervisor.Unplug("web-a", base(w, t).ID) }, "layer", true},
		"its initramfs": {func(t *testing.T, w *world) { remove(t, w.defined(t).Initramfs) }, "initramfs",
			true},
		"the boot configuration": {func(_ *testing.T, w *world) {
			w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.BootConfig = nil })
		}, "boot configuration", true},
		"the manifest of its release": {func(t *testing.T, w *world) { remove(t, w.store.Path(store.ReleaseName(w.old))) }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			test.damage(t, w)
			read, err := w.fleet.Read(within(t, time.Minute), "web-a")
			if err != nil {
				t.Fatal(err)
			}
			if read.Spec.DiskSize != w.spec().DiskSize {
				t.Errorf("its disk has %d bytes", read.Spec.DiskSize)
			}
			if test.object != "" &&
				(len(read.Faults) != 1 || !strings.HasPrefix(read.Faults[0].Object, test.object) ||
					read.Faults[0].Mended != test.mended) {
				t.Errorf("read %+v", read.Faults)
			}
			if test.mended {
				if updated, _, err := w.fleet.Update(within(t, time.Minute), w.spec(), quiet); err != nil ||
					len(updated.Faults) > 0 {
					t.Errorf("after an update it lacks %+v, %v", updated, err)
				}
			}
			if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID, quiet); err != nil {
				t.Errorf("it is not deleted: %v", err)
			}
			if disks, err := w.store.ListDisks(t.Context()); err != nil || len(disks) > 0 {
				t.Errorf("left are %v, %v", disks, err)
			}
		})
	}
}

// An empty disk in the place of the lost one would hide the loss.
func TestALostPrivateDiskIsNotReplacedByAnEmptyOne(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	if err := os.Remove(w.defined(t).PrivateDisk); err != nil {
		t.Fatal(err)
	}
	before := len(w.hypervisor.Calls())
	for name, change := range map[string]func(*vm.Spec){
		"another release": func(s *vm.Spec) { s.Base = w.new },
		"another name":    func(s *vm.Spec) { s.Hostname = "renamed" },
		"a larger disk":   func(s *vm.Spec) { s.DiskSize *= 2 },
		"power off":       func(s *vm.Spec) { s.Running = false },
	} {
		spec := w.spec()
		change(&spec)
		if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrDiskGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if calls := w.hypervisor.Calls(); len(calls) != before {
		t.Errorf("an update that was refused did %v", calls[before:])
	}
	if disks, err := w.store.ListDisks(t.Context()); err != nil || len(disks) > 0 {
		t.Errorf("there are the disks %v, %v", disks, err)
	}
}

func TestAVMIsNotPutOnWhatIsDamaged(t *testing.T) {
	for name, volume := range map[string]func(*world, *testing.T) string{
		"a layer": func(w *world,
			t *testing.T) string {
			return store.LayerName(w.manifest(t, w.new).Layers[1].ID)
		},
		"a kernel": func(w *world,
			t *testing.T) string {
			return store.BlobName(w.manifest(t, w.new).Kernel.Image.Digest)
		},
		"its modules": func(w *world,
			t *testing.T) string {
			return store.BlobName(w.manifest(t, w.new).Kernel.Modules.Digest)
		},
		"its manifest": func(w *world, _ *testing.T) string { return store.ReleaseName(w.new) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			path := w.store.Path(volume(w, t))
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)-2] ^= 1
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			spec := w.spec()
			spec.Base = w.new
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err == nil {
				t.Error("a VM was moved to it")
			}
			spec.Name, spec.UUID = "web-b", "11111111-2222-4333-8444-555555555555"
			if _, err := w.fleet.Create(within(t, time.Minute), spec, quiet); err == nil {
				t.Error("a VM was made on it")
			} else if name != "its manifest" &&
				(!errors.Is(err, store.ErrCorrupt) ||
					!strings.Contains(err.Error(), "virsh vol-delete --pool pool "+volume(w, t))) {
				t.Errorf("the error is %v", err)
			}
			if _, _, err := w.hypervisor.Lookup(t.Context(), "web-b"); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("its domain: %v", err)
			}
			if guest := w.agent(t, "web-a"); guest.Stack().Base != w.old {
				t.Errorf("the guest runs %s", guest.Stack().Base)
			}
		})
	}
}

// manifest reads a release in the pool.
func (w *world) manifest(t *testing.T, id tree.Digest) *release.Manifest {
	t.Helper()
	signed, err := w.store.GetManifest(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := release.OpenUnsigned(signed)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

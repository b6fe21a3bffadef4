package vm_test

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

func disk(serial string, change func(*vm.Disk)) vm.Disk {
	made := vm.Disk{
		DiskDevice: hypervisor.DiskDevice{Format: "raw", Cache: "none", Discard: "unmap", Serial: serial},
		Size:       64 * mebibyte,
	}
	if change != nil {
		change(&made)
	}
	return made
}

func (w *world) volumeOf(t *testing.T, spec vm.Spec, name string) string {
	t.Helper()
	volume, err := store.FurtherDiskName(spec.Name, spec.UUID, name)
	if err != nil {
		t.Fatal(err)
	}
	return w.store.Path(volume)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// sizeOf is the size of a file; -1 if there is none.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return info.Size()
}

func (w *world) update(t *testing.T, spec vm.Spec) (*vm.VM, error) {
	t.Helper()
	updated, _, err := w.fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
	if err == nil && len(updated.Faults) > 0 {
		t.Errorf("its faults are %v", updated.Faults)
	}
	return updated, err
}

func TestDisksComeAndGoInARunningVM(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	data := disk("data", func(d *vm.Disk) { d.FileSystem, d.MountPoint = "ext4", "/srv/data" })
	spec.Disks = map[string]vm.Disk{"data": data}
	w.create(t, spec)
	path := w.volumeOf(t, spec, "data")
	if sizeOf(path) != data.Size {
		t.Fatalf("the volume has %d bytes", sizeOf(path))
	}
	defined, _, err := w.hypervisor.Lookup(t.Context(), spec.Name)
	if err != nil || defined.Disks["data"].Path != path ||
		!strings.Contains(string(defined.BootConfig), `"mount_point":"/srv/data"`) {
		t.Errorf("%v: %+v, boot configuration %s", err, defined.Disks, defined.BootConfig)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	agent := w.agent(t, spec.Name)
	mustBe := func(want ...string) {
		t.Helper()
		attached, err := w.hypervisor.AttachedDisks(t.Context(), spec.Name)
		must(err)
		found, err := w.fleet.Read(t.Context(), spec.Name)
		must(err)
		if !slices.Equal(attached, want) || !maps.Equal(found.Spec.Disks, spec.Disks) || len(found.Faults) > 0 {
			t.Fatalf("attached are %q, want %q; it has %+v, want %+v; faults %v", attached, want, found.Spec.Disks,
				spec.Disks, found.Faults)
		}
	}
	mustBe("data")

	spec.Disks = map[string]vm.Disk{"data": data, "logs": disk("l-1", nil)}
	_, err = w.update(t, spec)
	must(err)
	mustBe("data", "logs")

	data.Size, data.MountPoint = 128*mebibyte, "/srv/other"
	spec.Disks = map[string]vm.Disk{"data": data, "logs": disk("l-1", nil)}
	_, err = w.update(t, spec)
	must(err)
	mustBe("data", "logs")
	told := agent.DisksSet()
	if last := told[len(told)-1]; len(last.GetDisks()) != 1 || last.GetDisks()[0].GetMountPoint() != "/srv/other" ||
		last.GetDisks()[0].GetSize() != data.Size ||
		sizeOf(path) != data.Size {
		t.Errorf("the guest was told %v, and the volume has %d bytes", last, sizeOf(path))
	}

	before := spec.Disks
	spec.Disks = map[string]vm.Disk{"logs": disk("l-1", nil)}
	agent.UseDisk("data", "postgresql.service")
	if _, err := w.update(t, spec); !errors.Is(err, vm.ErrDiskInUse) ||
		!strings.Contains(err.Error(), "postgresql.service") {
		t.Errorf("a disk that is in use: %v", err)
	}
	spec.Disks = before
	mustBe("data", "logs")
	agent.UseDisk("data")
	spec.Disks = map[string]vm.Disk{"logs": disk("l-1", nil)}
	_, err = w.update(t, spec)
	must(err)
	mustBe("logs")
	if exists(path) {
		t.Error("the volume of a disk that was removed is still there")
	}
	for _, call := range w.hypervisor.Calls() {
		if strings.HasPrefix(call, "PowerOff") || strings.HasPrefix(call, "Shutdown") {
			t.Errorf("it was powered off: %s", call)
		}
	}
	must(w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}))
	if exists(w.volumeOf(t, spec, "logs")) {
		t.Error("the volume of a disk outlasts its VM")
	}
}

// While a VM is off, or is powered off for another reason, its disks change in its definition.
func TestDisksOfAVMThatIsOff(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Running = false
	spec.Disks = map[string]vm.Disk{"a": disk("a", nil), "b": disk("b", func(d *vm.Disk) { d.Format = "qcow2" })}
	w.create(t, spec)
	spec.Disks = map[string]vm.Disk{"b": disk("b", func(d *vm.Disk) { d.Format, d.Size = "qcow2", 128*mebibyte }),
		"c": disk("c", nil)}
	if _, err := w.update(t, spec); err != nil {
		t.Fatal(err)
	}
	found, format, err := w.store.FindVolume(t.Context(), "", w.nameOf(t, spec, "b"))
	if err != nil || format != "qcow2" || found.Capacity != 128*mebibyte || exists(w.volumeOf(t, spec, "a")) ||
		!exists(w.volumeOf(t, spec, "c")) {
		t.Errorf("%+v, %s, %v", found, format, err)
	}
	if calls := w.agent(t, spec.Name).DisksSet(); len(calls) > 0 {
		t.Errorf("a guest that is off was told %v", calls)
	}
	spec.Running = true
	if _, err := w.update(t, spec); err != nil {
		t.Fatal(err)
	}
	spec.Disks["c"] = disk("c", func(d *vm.Disk) { d.Cache = "writeback" })
	if _, err := w.update(t, spec); !errors.Is(err, vm.ErrImpact) {
		t.Errorf("a power-off that is not allowed: %v", err)
	}
}

func (w *world) nameOf(t *testing.T, spec vm.Spec, name string) string {
	t.Helper()
	volume, err := store.FurtherDiskName(spec.Name, spec.UUID, name)
	if err != nil {
		t.Fatal(err)
	}
	return volume
}

// A volume that is given is never made, grown or deleted.
func TestAVolumeThatIsGiven(t *testing.T) {
	w := newWorld(t)
	if err := w.store.AddPool("other"); err != nil {
		t.Fatal(err)
	}
	path := w.store.PathIn("other", "mine.img")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	spec := w.spec()
	given := disk("mine", func(d *vm.Disk) { d.Pool, d.Volume, d.Size = "other", "mine.img", 0 })
	spec.Disks = map[string]vm.Disk{"mine": given}
	w.create(t, spec)
	spec.Disks = map[string]vm.Disk{}
	if _, err := w.update(t, spec); err != nil {
		t.Fatal(err)
	}
	spec.Disks = map[string]vm.Disk{"mine": given}
	if _, err := w.update(t, spec); err != nil {
		t.Fatal(err)
	}
	if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
		t.Errorf("the volume has %q, %v", content, err)
	}
	other := spec
	other.Name, other.Disks = "web-b",
		map[string]vm.Disk{"mine": disk("mine", func(d *vm.Disk) { d.Pool, d.Volume, d.Size = "other", "none.img", 0 })}
	if _, err := w.fleet.Create(t.Context(), other, func(string) {}); !errors.Is(err, vm.ErrVolumeGone) {
		t.Errorf("a volume that is not there: %v", err)
	}
}

func TestAProtectedDiskKeepsItselfAndItsVM(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Protected = true })}
	w.create(t, spec)
	if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}); !errors.Is(err, vm.ErrProtected) {
		t.Errorf("a VM with a protected disk: %v", err)
	}
	for _, running := range []bool{true, false} {
		without := spec
		without.Disks, without.Running = map[string]vm.Disk{}, running
		if _, err := w.update(t, without); !errors.Is(err, vm.ErrProtected) || !exists(w.volumeOf(t, spec, "data")) {
			t.Errorf("a protected disk that is removed, running %t: %v", running, err)
		}
	}
	// A VM that cannot be changed otherwise can still be made deletable.
	spec.Disks = map[string]vm.Disk{"data": disk("data", nil)}
	spec.Memory++
	if _, err := w.update(t, spec); err == nil {
		t.Error("an impossible size of memory was accepted")
	}
	if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}); err != nil ||
		exists(w.volumeOf(t, spec, "data")) {
		t.Errorf("a disk that is not protected any more: %v", err)
	}
}

// Whatever cuts an update off, the next one makes the disks as they should be, and the deletion of
// the VM leaves no volume.
func TestAnUpdateOfDisksThatIsCutOff(t *testing.T) {
	down := errors.New("libvirt is down")
	for _, method := range []string{"SetMetadata", "CreateDisk", "AttachDisk", "ResizeDisk", "DetachDisk",
		"DeleteDisk", "Define"} {
		for _, goOn := range []bool{true, false} {
			t.Run(method, func(t *testing.T) {
				w := newWorld(t)
				spec := w.spec()
				spec.Disks = map[string]vm.Disk{"gone": disk("gone", nil), "grows": disk("grows", nil)}
				w.create(t, spec)
				before := spec
				fails := true
				w.hypervisor.Fail = func(called, _ string) error {
					if fails && called == method {
						return down
					}
					return nil
				}
				w.store.Fail = w.hypervisor.Fail
				spec.Disks = map[string]vm.Disk{
					"grows": disk("grows", func(d *vm.Disk) { d.Size *= 2 }),
					"new":   disk("new", func(d *vm.Disk) { d.FileSystem, d.MountPoint = "xfs", "/srv/x" }),
				}
				if _, err := w.update(t, spec); !errors.Is(err, down) {
					t.Fatalf("%v", err)
				}
				fails = false
				if found, err := w.fleet.Read(t.Context(), spec.Name); err != nil ||
					maps.Equal(found.Spec.Disks, spec.Disks) {
					t.Errorf("it counts as done: %v", err)
				}
				want := before
				if goOn {
					want = spec
				}
				if !goOn {
					for name := range want.Disks {
						if !exists(w.volumeOf(t, spec, name)) ||
							name == "grows" { // a disk cannot shrink back, and one that is gone is gone
							want.Disks = maps.Clone(want.Disks)
							delete(want.Disks, name)
						}
					}
				}
				updated, err := w.update(t, want)
				if err != nil {
					t.Fatal(err)
				}
				attached, err := w.hypervisor.AttachedDisks(t.Context(), spec.Name)
				if err != nil || !maps.Equal(updated.Spec.Disks, want.Disks) ||
					!slices.Equal(attached, slices.Sorted(maps.Keys(want.Disks))) {
					t.Errorf("%v: it has %+v, want %+v; attached are %q", err, updated.Spec.Disks, want.Disks, attached)
				}
				for _, name := range []string{"gone", "grows", "new"} {
					if _, wanted := want.Disks[name]; exists(w.volumeOf(t, spec, name)) != wanted {
						t.Errorf("the volume of %s is there: %t", name, !wanted)
					}
				}
				if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}); err != nil {
					t.Fatal(err)
				}
				for _, name := range []string{"gone", "grows", "new"} {
					if exists(w.volumeOf(t, spec, name)) {
						t.Errorf("the volume of %s outlasts the VM", name)
					}
				}
			})
		}
	}
}

// A creation that fails leaves no volume.
func TestACreationWithDisksThatFails(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"a": disk("a", nil), "b": disk("b", func(d *vm.Disk) { d.Pool = "none" })}
	if _, err := w.fleet.Create(t.Context(), spec, func(string) {}); !errors.Is(err, store.ErrAbsentPool) {
		t.Errorf("%v", err)
	}
	if _, err := w.fleet.Read(t.Context(), spec.Name); !errors.Is(err, vm.ErrNotFound) ||
		exists(w.volumeOf(t, spec, "a")) {
		t.Errorf("it left something: %v", err)
	}
}

// What people do to the disks of a VM is a fault, and a volume that is gone is never replaced by an empty one.
func TestDisksThatAreNotAsTheyShouldBe(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"data": disk("data", nil)}
	w.create(t, spec)
	for name, breaks := range map[string]func(){
		"detached from the running VM": func() { w.hypervisor.UnplugDisk(spec.Name, "data") },
		"taken from the definition": func() {
			w.hypervisor.Alter(
				spec.Name, func(d *hypervisor.Domain) { d.Disks = nil })
		},
	} {
		breaks()
		found, err := w.fleet.Read(t.Context(), spec.Name)
		if err != nil || len(found.Faults) != 1 || !found.Faults[0].Mended ||
			!maps.Equal(found.Spec.Disks, spec.Disks) {
			t.Errorf("%s: %v, %+v", name, err, found)
		}
		if _, err := w.update(t, spec); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	// Somebody has changed a setting: that is drift.
	w.hypervisor.Alter(spec.Name, func(d *hypervisor.Domain) {
		one := d.Disks["data"]
		one.Cache = "unsafe"
		d.Disks = map[string]hypervisor.Disk{"data": one}
	})
	if found, err := w.fleet.Read(t.Context(), spec.Name); err != nil || found.Spec.Disks["data"].Cache != "unsafe" {
		t.Errorf("%v: %+v", err, found)
	}
	if err := os.Remove(w.volumeOf(t, spec, "data")); err != nil {
		t.Fatal(err)
	}
	found, err := w.fleet.Read(t.Context(), spec.Name)
	if err != nil || len(found.Faults) != 1 || found.Faults[0].Mended {
		t.Errorf("%v, %+v", err, found)
	}
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Cache = "unsafe"; d.Size *= 2 })}
	if _, err := w.update(t, spec); !errors.Is(err, vm.ErrVolumeGone) || exists(w.volumeOf(t, spec, "data")) {
		t.Errorf("%v", err)
	}
	spec.Disks = map[string]vm.Disk{}
	if _, err := w.update(t, spec); err != nil {
		t.Error(err)
	}
}

// A guest that writes the header of another format to its disk hinders the growth of that disk
// alone, and only while it is off.
func TestAGuestThatWritesAHeaderToItsDisk(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"data": disk("data", nil)}
	w.create(t, spec)
	file, err := os.OpenFile(w.volumeOf(t, spec, "data"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteAt([]byte("QFI\xfb\x00\x00\x00\x03"), 0)
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	spec.Hostname = "other"
	if _, err := w.update(t, spec); err != nil {
		t.Error(err)
	}
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Size *= 2 })}
	if _, err := w.update(t, spec); err != nil || sizeOf(w.volumeOf(t, spec, "data")) != 128*mebibyte {
		t.Errorf("%v", err)
	}
	spec.Running = false
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Size *= 4 })}
	if _, err := w.update(t, spec); !errors.Is(err, store.ErrFormat) {
		t.Errorf("%v", err)
	}
	if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}); err != nil {
		t.Error(err)
	}
}

// A pool that does not answer keeps nobody from reading a VM.
func TestADiskWhosePoolDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	if err := w.store.AddPool("far"); err != nil {
		t.Fatal(err)
	}
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Pool = "far" })}
	w.create(t, spec)
	w.store.Fail = func(method, _ string) error {
		if method == "FindVolume" || method == "DeleteDisk" {
			return store.ErrUnreachable
		}
		return nil
	}
	found, err := w.fleet.Read(t.Context(), spec.Name)
	if err != nil || len(found.Faults) != 1 || found.Faults[0].Mended || !maps.Equal(found.Spec.Disks, spec.Disks) {
		t.Errorf("%v: %+v", err, found)
	}
	if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID,
		func(string) {}); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("its volume counts as gone: %v", err)
	}
	w.store.Fail = nil
	if err := os.RemoveAll(w.store.PathIn("far", "")); err != nil {
		t.Fatal(err)
	}
	if err := w.fleet.Delete(t.Context(), spec.Name, spec.UUID, func(string) {}); !errors.Is(err, vm.ErrLeft) {
		t.Errorf("its pool was undefined: %v", err)
	}
}

// Data is lost only where it was said that a disk is to go.
func TestAnUpdateThatDoesNotKnowTheDisksLeavesThem(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Disks = map[string]vm.Disk{"data": disk("data",
		func(d *vm.Disk) { d.FileSystem, d.MountPoint = "ext4", "/srv/data" })}
	w.create(t, spec)
	without := spec
	without.Disks = nil
	for _, change := range []func(*vm.Spec){
		func(s *vm.Spec) { s.Base = w.new },
		func(s *vm.Spec) { s.Running = false },
		func(s *vm.Spec) { s.VCPUs++; s.Running = true },
	} {
		change(&without)
		updated, err := w.update(t, without)
		if err != nil || !maps.Equal(updated.Spec.Disks, spec.Disks) || !exists(w.volumeOf(t, spec, "data")) {
			t.Fatalf("%v: %+v", err, updated)
		}
		if domain, _, err := w.hypervisor.Lookup(t.Context(), spec.Name); err != nil ||
			!strings.Contains(string(domain.BootConfig), "/srv/data") {
			t.Errorf("%v: the next boot does not mount it: %s", err, domain.BootConfig)
		}
	}
}

// Disks that somebody has added stay over every definition.
func TestDisksOfOthersStay(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	w.create(t, spec)
	added := []string{"<disk/>"}
	w.hypervisor.Alter(spec.Name, func(d *hypervisor.Domain) { d.ForeignDisks = added })
	spec.Disks = map[string]vm.Disk{"data": disk("data", nil)}
	if _, err := w.update(t, spec); err != nil {
		t.Fatal(err)
	}
	if now, _, err := w.hypervisor.Lookup(t.Context(), spec.Name); err != nil ||
		!slices.Equal(now.ForeignDisks, added) {
		t.Errorf("%v: %q", err, now.ForeignDisks)
	}
}

// unfinished is a running VM with a disk that an apply has attached and was then cut off. It
// returns the specification of the apply.
func (w *world) unfinished(t *testing.T, spec vm.Spec) vm.Spec {
	t.Helper()
	w.create(t, spec)
	down := errors.New("libvirt is down")
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Define" {
			return down
		}
		return nil
	}
	spec.Disks = map[string]vm.Disk{"data": disk("data",
		func(d *vm.Disk) { d.FileSystem, d.MountPoint = "ext4", "/srv/data" })}
	if _, err := w.update(t, spec); !errors.Is(err, down) {
		t.Fatal(err)
	}
	w.hypervisor.Fail = nil
	if attached, err := w.hypervisor.AttachedDisks(t.Context(), spec.Name); err != nil ||
		!slices.Equal(attached, []string{"data"}) {
		t.Fatalf("attached are %q, %v", attached, err)
	}
	return spec
}

// The guest may have written to a disk although its apply was cut off: what is about something else
// leaves the disk as it is.
func TestAnUnfinishedDiskOutlastsWhatIsNotAboutDisks(t *testing.T) {
	for name, do := range map[string]func(*world, vm.Spec) error{
		"a move by a rollout": func(w *world, spec vm.Spec) error {
			_, _, err := w.fleet.Move(within(t, time.Minute), spec.Name, vm.Target{Base: w.new}, false, quiet)
			return err
		},
		"a reboot": func(w *world, spec vm.Spec) error {
			_, err := w.fleet.Reboot(within(t, time.Minute), spec.UUID, vm.Readiness{}, quiet)
			return err
		},
		"an update that does not know the disks": func(w *world, spec vm.Spec) error {
			spec.Disks, spec.Base = nil, w.new
			_, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			return err
		},
		"an update while it is off": func(w *world, spec vm.Spec) error {
			spec.Disks, spec.Running = nil, false
			_, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.unfinished(t, w.partaking())
			path := w.volumeOf(t, spec, "data")
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = file.WriteString("precious")
			if err := errors.Join(err, file.Close()); err != nil {
				t.Fatal(err)
			}
			if err := do(w, spec); err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(path)
			if domain := w.defined(t); err != nil || string(content[:8]) != "precious" ||
				domain.Disks["data"].Path != path || !domain.Metadata.Disks["data"].Making {
				t.Fatalf("%v: it has %.8q, and the definition has %+v", err, content, domain.Disks)
			}
			updated, err := w.update(t, spec)
			if err != nil || !maps.Equal(updated.Spec.Disks, spec.Disks) || !exists(path) {
				t.Errorf("the next apply does not finish it: %v, %+v", err, updated)
			}
		})
	}
}

// A disk that an apply has attached is that of its name, also if the apply was cut off.
func TestAnUnfinishedDiskDoesNotBecomeAnotherOne(t *testing.T) {
	w := newWorld(t)
	if err := w.store.AddPool("other"); err != nil {
		t.Fatal(err)
	}
	spec := w.unfinished(t, w.spec())
	change := func(change func(*vm.Disk)) (*vm.VM, error) {
		to, data := spec, spec.Disks["data"]
		change(&data)
		to.Disks = map[string]vm.Disk{"data": data}
		return w.update(t, to)
	}
	for _, running := range []bool{true, false} {
		spec.Running = running
		if _, err := change(func(d *vm.Disk) { d.Pool = "other" }); !errors.Is(err, vm.ErrOtherDisk) ||
			w.defined(t).Disks["data"].Path != w.volumeOf(t, spec, "data") {
			t.Errorf("another pool, running %t: %v", running, err)
		}
	}
	w = newWorld(t)
	spec = w.unfinished(t, w.spec())
	if _, err := change(func(d *vm.Disk) { d.Serial = "other" }); !errors.Is(err, vm.ErrImpact) {
		t.Errorf("another serial in a VM that must not be powered off: %v", err)
	}
	spec.Refresh.MaxImpact = agentapi.Level_REBOOT
	if _, err := change(func(d *vm.Disk) { d.Serial = "other" }); err != nil ||
		w.defined(t).Disks["data"].Serial != "other" {
		t.Errorf("another serial: %v", err)
	}
}

// A VM that is powered off for a change runs again if that fails, and is not powered off for what shows before.
func TestAPowerOffForAChangeThatFails(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Refresh.MaxImpact = agentapi.Level_REBOOT
	w.create(t, spec)
	began := len(w.hypervisor.Calls())
	wanted := spec
	wanted.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Volume, d.Size = "typo.img", 0 })}
	if _, err := w.update(t, wanted); !errors.Is(err, vm.ErrVolumeGone) {
		t.Errorf("without a power-off: %v", err)
	}
	wanted.VCPUs++
	for name, c := range map[string]struct {
		change func(*vm.Disk)
		want   error
	}{
		"no such volume": {func(d *vm.Disk) { d.Volume, d.Size = "typo.img", 0 }, vm.ErrVolumeGone},
		"no such pool":   {func(d *vm.Disk) { d.Pool = "typo" }, store.ErrAbsentPool},
	} {
		wanted.Disks = map[string]vm.Disk{"data": disk("data", c.change)}
		if _, err := w.update(t, wanted); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if calls := w.hypervisor.Calls()[began:]; slices.Contains(calls, "Shutdown web-a") {
		t.Errorf("it was powered off: %v", calls)
	}
	down := errors.New("libvirt is down")
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Define" {
			return down
		}
		return nil
	}
	wanted.Disks = nil
	_, updated := w.update(t, wanted)
	_, rebooted := w.fleet.Reboot(within(t, time.Minute), spec.UUID, vm.Readiness{}, quiet)
	w.hypervisor.Fail = nil
	for name, err := range map[string]error{"an update": updated, "a reboot": rebooted} {
		if !errors.Is(err, down) {
			t.Errorf("%s: %v", name, err)
		}
	}
	calls := w.hypervisor.Calls()[began:]
	stops := len(slices.DeleteFunc(slices.Clone(calls), func(call string) bool { return call != "Shutdown web-a" }))
	if now := w.read(t, "web-a"); stops != 2 || !now.Spec.Running || now.Spec.VCPUs != spec.VCPUs {
		t.Errorf("it was powered off %d times, and is %+v", stops, now.Spec)
	}
	if err := w.store.AddPool("other"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.store.PathIn("other", "mine.img"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	wanted.Disks = map[string]vm.Disk{"data": disk("data",
		func(d *vm.Disk) { d.Pool, d.Volume, d.Size = "other", "mine.img", 0 })}
	if updated, err := w.update(t, wanted); err != nil || updated.Spec.VCPUs != wanted.VCPUs {
		t.Errorf("with a volume that is there: %v", err)
	}
}

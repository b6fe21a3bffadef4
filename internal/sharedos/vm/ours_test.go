package vm_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// volume creates a volume in the pool as somebody else could, and returns a function that requires
// that it is as it was.
func (w *world) volume(t *testing.T, name string) (unchanged func()) {
	t.Helper()
	const content = "somebody else's data"
	if err := os.WriteFile(w.store.Path(name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if got, err := os.ReadFile(w.store.Path(name)); err != nil || string(got) != content {
			t.Errorf("the volume %s of somebody else has %d bytes, %v", name, len(got), err)
		}
	}
}

// defined returns the definition of web-a.
func (w *world) defined(t *testing.T) hypervisor.Domain {
	t.Helper()
	domain, _, err := w.hypervisor.Lookup(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	return domain
}

func TestAVolumeOfSomebodyElseIsNoPrivateDisk(t *testing.T) {
	w := newWorld(t)
	unchanged := w.volume(t, "vm-web-a")
	w.create(t, w.spec())
	unchanged()
	spec := w.spec()
	spec.DiskSize *= 2
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	unchanged()
	for range 2 {
		if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID, quiet); err != nil {
			t.Fatal(err)
		}
		unchanged()
	}
}

// The record in a domain can be edited, and a clone of a domain has a copy of it.
func TestAVolumeThatARecordNamesIsDeletedOnlyWithItsMark(t *testing.T) {
	other := "vm-web-b.00112233445566aa"
	for name, volume := range map[string]string{
		"of another VM": other, "a layer": store.LayerName(tree.Sum([]byte("layer"))),
		"a history": "head-base-debian-13", "none of ours": "data",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			unchanged := w.volume(t, volume)
			w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Metadata.PrivateVolume = volume })
			if _, _, err := w.fleet.Update(within(t, time.Minute), w.renamed(), quiet); !errors.Is(err, vm.ErrNotOurs) {
				t.Errorf("update: %v", err)
			}
			if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID, quiet); !errors.Is(err,
				vm.ErrLeft) || !strings.Contains(err.Error(), volume) {
				t.Errorf("delete: %v", err)
			}
			unchanged()
			if _, _, err := w.hypervisor.Lookup(t.Context(), "web-a"); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("the VM is there: %v", err)
			}
		})
	}
}

// unmark gives web-a a private disk as an earlier version made it.
func (w *world) unmark(t *testing.T) {
	t.Helper()
	was := w.defined(t).Metadata.PrivateVolume
	if err := os.Rename(w.store.Path(was), w.store.Path("vm-web-a")); err != nil {
		t.Fatal(err)
	}
	w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) {
		d.Metadata.PrivateVolume, d.PrivateDisk = "vm-web-a", w.store.Path("vm-web-a")
	})
}

func TestThePrivateDiskOfAnEarlierVersionIsTheOneThatTheRecordNames(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.unmark(t)
	spec := w.spec()
	spec.DiskSize *= 2
	if updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil ||
		updated.Spec.DiskSize != spec.DiskSize {
		t.Fatalf("updated %+v, %v", updated, err)
	}
	clone := w.defined(t)
	clone.Name, clone.UUID = "copy", "11111111-2222-4333-8444-555555555555"
	if err := w.hypervisor.Define(t.Context(), clone); err != nil {
		t.Fatal(err)
	}
	if err := w.fleet.Delete(within(t, time.Minute), "copy", clone.UUID, quiet); !errors.Is(err, vm.ErrLeft) {
		t.Errorf("the deletion of a copy: %v", err)
	}
	if _, err := w.store.PrivateDisk(t.Context(), "vm-web-a"); err != nil {
		t.Errorf("the disk went with the copy: %v", err)
	}
	if err := w.fleet.Delete(within(t, time.Minute), "web-a", spec.UUID, quiet); err != nil {
		t.Error(err)
	}
	if _, err := w.store.PrivateDisk(t.Context(), "vm-web-a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the disk is left: %v", err)
	}
}

// killed makes web-a look as a process that was killed while it made it left it.
func (w *world) killed(t *testing.T, change func(*hypervisor.Domain)) {
	t.Helper()
	w.create(t, w.spec())
	w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) {
		d.Metadata.Creating = &hypervisor.Creating{Operator: w.operators()[0], Process: "gone", Began: time.Now()}
		change(d)
	})
}

func TestACreationThatWasKilledIsContinued(t *testing.T) {
	for name, leave := range map[string]func(*testing.T, *world){
		"before its disk existed": func(t *testing.T, w *world) {
			w.killed(t, func(d *hypervisor.Domain) { d.PrivateDisk, d.Metadata.AgentKey = "", "" })
			w.guests.Forget("web-a")
			w.hypervisor.SetState("web-a", hypervisor.Off)
			if err := w.store.DeletePrivateDisk(t.Context(), w.defined(t).Metadata.PrivateVolume); err != nil {
				t.Fatal(err)
			}
		},
		"before the disk was defined": func(t *testing.T, w *world) {
			w.killed(t, func(d *hypervisor.Domain) { d.PrivateDisk, d.Metadata.AgentKey = "", "" })
			w.guests.Forget("web-a")
			w.hypervisor.SetState("web-a", hypervisor.Off)
		},
		"while it booted": func(t *testing.T, w *world) { w.killed(t, func(*hypervisor.Domain) {}) },
		"with another number of processors": func(t *testing.T,
			w *world) {
			w.killed(t, func(d *hypervisor.Domain) { d.VCPUs = 7 })
		},
		"with another host name": func(t *testing.T, w *world) {
			spec := w.spec()
			spec.Hostname, spec.AuthorizedKeys = "other", []string{"ssh-ed25519 AAAA"}
			w.create(t, spec)
			w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Metadata.Creating.Process = "gone" })
		},
		"with another release": func(t *testing.T, w *world) {
			w.killed(t, func(d *hypervisor.Domain) { d.Metadata.Stack.Base = w.new })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			leave(t, w)
			uuid, err := w.fleet.Interrupted(t.Context(), "web-a")
			if err != nil || uuid != w.spec().UUID {
				t.Fatalf("found %q, %v", uuid, err)
			}
			made := w.create(t, w.spec())
			if !made.Answered || made.Spec.VCPUs != 1 || made.Stack.Base != w.old || len(made.Faults) > 0 {
				t.Errorf("made %+v", made)
			}
			if strings.HasPrefix(name, "with another") && made.Agent.GetBootId() == "boot-1" {
				t.Error("it runs on as it was")
			}
			if domain := w.defined(t); domain.Metadata.BeingMade() || domain.PrivateDisk == "" {
				t.Errorf("its definition is %+v", domain)
			}
			if err := w.fleet.Recorded(t.Context(), w.spec().UUID); err != nil {
				t.Error(err)
			}
			if disks, err := w.store.ListDisks(t.Context()); err != nil || len(disks) != 1 {
				t.Errorf("the disks are %v, %v", disks, err)
			}
			if uuid, err := w.fleet.Interrupted(t.Context(), "web-a"); uuid != "" || err != nil {
				t.Errorf("once recorded, it is %q, %v", uuid, err)
			}
		})
	}
}

// Terraform writes a VM to its state after the provider's answer, and may be killed before.
func TestAVMThatWasMadeIsKnownAsSuchUntilItIsRecorded(t *testing.T) {
	w := newWorld(t)
	interrupted := func(want string) {
		t.Helper()
		if uuid, err := w.fleet.Interrupted(t.Context(), "web-a"); uuid != want || err != nil {
			t.Errorf("it is %q, %v; want %q", uuid, err, want)
		}
	}
	ended := func() {
		w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Metadata.Creating.Process = "gone" })
	}
	w.create(t, w.spec())
	if found, err := w.fleet.Read(t.Context(), "web-a"); err != nil || !found.Unrecorded {
		t.Errorf("just made: %+v, %v", found, err)
	}
	if _, err := w.fleet.Interrupted(t.Context(), "web-a"); !errors.Is(err, vm.ErrCreating) {
		t.Errorf("while its process runs: %v", err)
	}
	ended()
	interrupted(w.spec().UUID)
	t.Chdir(t.TempDir())
	interrupted("") // another configuration, whose VM happens to have the same name
	if made := w.create(t, w.spec()); !made.Answered {
		t.Errorf("continued from another directory: %+v", made)
	}
	ended()
	interrupted(w.spec().UUID)
	t.Setenv("TF_WORKSPACE", "another")
	interrupted("")
	t.Setenv("TF_WORKSPACE", "")
	interrupted(w.spec().UUID)
	w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Metadata.Protected = true })
	interrupted("")
	w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Metadata.Protected = false })
	for range 2 {
		if err := w.fleet.Recorded(t.Context(), w.spec().UUID); err != nil {
			t.Fatal(err)
		}
		interrupted("")
	}
	if found, err := w.fleet.Read(t.Context(), "web-a"); err != nil || found.Unrecorded {
		t.Errorf("recorded: %+v, %v", found, err)
	}
	if err := w.fleet.Recorded(t.Context(), "11111111-2222-4333-8444-555555555555"); err != nil {
		t.Errorf("a VM that does not exist: %v", err)
	}
}

func TestAnUpdateMeansThatAVMIsRecorded(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.DiskSize *= 2
	if updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil || updated.Unrecorded {
		t.Fatalf("updated %+v, %v", updated, err)
	}
	if domain := w.defined(t); domain.Metadata.Creating != nil {
		t.Errorf("its definition is %+v", domain)
	}
}

// A private disk that is missing is a loss once the VM was made, whether Terraform has recorded the VM or not.
func TestALostDiskIsNotMadeAnewForAVMThatWasMade(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	if err := w.store.DeletePrivateDisk(t.Context(), w.defined(t).Metadata.PrivateVolume); err != nil {
		t.Fatal(err)
	}
	if _, err := w.fleet.Create(within(t, time.Minute), w.spec(), quiet); !errors.Is(err, vm.ErrDiskGone) {
		t.Errorf("continued: %v", err)
	}
}

func TestACreationOfSomebodyElseIsNotContinued(t *testing.T) {
	self, err := store.ThisProcess()
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := "0011223344556677.1.2" // a process that this one cannot see
	for name, test := range map[string]struct {
		mark func(*hypervisor.Creating)
		want error
		uuid bool
	}{
		"of another operator":    {func(c *hypervisor.Creating) { c.Operator = "another" }, nil, false},
		"of a process that runs": {func(c *hypervisor.Creating) { c.Process = self }, vm.ErrCreating, false},
		"of another machine": {func(c *hypervisor.Creating) { c.Process = elsewhere }, vm.ErrCreating,
			false},
		"of another machine, long ago": {func(c *hypervisor.Creating) {
			c.Process, c.Began = elsewhere,
				time.Now().Add(-time.Hour)
		}, nil, true},
		"of before the host was started": {func(c *hypervisor.Creating) { c.Process, c.Began = elsewhere, time.Unix(1, 0) }, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.killed(t, func(d *hypervisor.Domain) { test.mark(d.Metadata.Creating) })
			uuid, err := w.fleet.Interrupted(t.Context(), "web-a")
			if (uuid != "") != test.uuid || !errors.Is(err, test.want) {
				t.Errorf("got %q, %v", uuid, err)
			}
		})
	}
	w := newWorld(t)
	w.hypervisor.AddForeign("stranger", "22222222-2222-4333-8444-555555555555")
	for _, name := range []string{"stranger", "nobody"} {
		if uuid, err := w.fleet.Interrupted(t.Context(), name); uuid != "" || err != nil {
			t.Errorf("%s: %q, %v", name, uuid, err)
		}
	}
}

func TestADomainIsFoundByItsUUIDFirst(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.hypervisor.Rename("web-a", "renamed")
	if name, err := w.fleet.Find(t.Context(), "web-a", w.spec().UUID); name != "renamed" || err != nil {
		t.Errorf("found %q, %v", name, err)
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.renamed(), quiet); !errors.Is(err, vm.ErrOther) ||
		!strings.Contains(err.Error(), "domrename renamed web-a") {
		t.Errorf("update: %v", err)
	}
	w.hypervisor.AddForeign("web-a", "22222222-2222-4333-8444-555555555555")
	if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID, quiet); err != nil {
		t.Error(err)
	}
	if disks, err := w.store.ListDisks(t.Context()); err != nil || len(disks) > 0 {
		t.Errorf("left are %v, %v", disks, err)
	}
	if _, err := w.fleet.Find(t.Context(), "web-a", w.spec().UUID); !errors.Is(err, vm.ErrOther) {
		t.Errorf("the domain of somebody else is %v", err)
	}
	if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID, quiet); !errors.Is(err, vm.ErrOther) {
		t.Errorf("the domain of somebody else: %v", err)
	}
}

func TestADomainWithoutOurRecordIsLeftAloneAndOneWithADamagedRecordGoes(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.hypervisor.Strip("web-a")
	if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID,
		quiet); !errors.Is(err, hypervisor.ErrForeign) {
		t.Errorf("without our metadata: %v", err)
	}
	w = newWorld(t)
	w.create(t, w.spec())
	w.hypervisor.Damage("web-a")
	if _, err := w.fleet.Find(t.Context(), "web-a", w.spec().UUID); !errors.Is(err, hypervisor.ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if err := w.fleet.Delete(within(t, time.Minute), "web-a", w.spec().UUID, quiet); err != nil {
		t.Errorf("damaged: %v", err)
	}
	if disks, err := w.store.ListDisks(t.Context()); err != nil || len(disks) > 0 {
		t.Errorf("left are %v, %v", disks, err)
	}
}

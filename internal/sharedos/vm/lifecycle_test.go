package vm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

func said(text string) *string { return &text }

// mustHave reads the VM and compares its life cycle.
func (w *world) mustHave(t *testing.T, want vm.LifeCycle) {
	t.Helper()
	read, err := w.fleet.Read(within(t, time.Minute), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, read.Spec.LifeCycle); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestTheLifeCycleIsSetWhenAVMIsMadeAndReadBack(t *testing.T) {
	none := vm.LifeCycle{Title: said(""), Description: said("")}
	all := vm.LifeCycle{Autostart: true, Protected: true, Title: said("Web"), Description: said("two\nlines")}
	for name, c := range map[string]struct{ want, read vm.LifeCycle }{
		"nothing":         {vm.LifeCycle{}, none},
		"all":             {all, all},
		"nothing by \"\"": {none, none},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.spec()
			spec.LifeCycle = c.want
			if diff := cmp.Diff(c.read, w.create(t, spec).Spec.LifeCycle); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			w.mustHave(t, c.read)
		})
	}
}

func TestAChangeOfTheLifeCycleDoesNothingElse(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	w.create(t, spec)
	w.guests.Silence("web-a", true) // the guest is not asked
	for _, test := range []struct {
		want, read vm.LifeCycle
		calls      []string
	}{
		{vm.LifeCycle{Autostart: true}, vm.LifeCycle{Autostart: true, Title: said(""), Description: said("")}, []string{"SetAutostart"}},
		{vm.LifeCycle{Protected: true}, vm.LifeCycle{Protected: true, Title: said(""), Description: said("")}, []string{"SetMetadata", "SetAutostart"}},
		{
			vm.LifeCycle{Protected: true, Title: said("a"), Description: said("b")},
			vm.LifeCycle{Protected: true, Title: said("a"), Description: said("b")},
			[]string{"SetTitle", "SetDescription"},
		},
		{vm.LifeCycle{Protected: true}, vm.LifeCycle{Protected: true, Title: said("a"), Description: said("b")}, nil},
		{vm.LifeCycle{Title: said("")}, vm.LifeCycle{Title: said(""), Description: said("b")}, []string{"SetMetadata", "SetTitle"}},
	} {
		before := len(w.hypervisor.Calls())
		if err := w.fleet.SetLifeCycle(t.Context(), "web-a", spec.UUID, test.want); err != nil {
			t.Fatal(err)
		}
		var calls []string
		for _, call := range w.hypervisor.Calls()[before:] {
			calls = append(calls, strings.TrimSuffix(call, " web-a"))
		}
		if !slices.Equal(calls, test.calls) {
			t.Errorf("it called %q, want %q", calls, test.calls)
		}
		w.mustHave(t, test.read)
	}
	if err := w.fleet.SetLifeCycle(t.Context(), "web-a", "11111111-2222-4333-8444-555555555555",
		vm.LifeCycle{}); !errors.Is(err, vm.ErrOther) {
		t.Errorf("another VM of the name: %v", err)
	}
}

// What a person has added to a domain stays there when the VM is defined again, whatever the reason.
func TestAnUnrelatedChangeKeepsWhatOthersHaveAdded(t *testing.T) {
	foreign := []string{`<a:owner xmlns:a="urn:example:a">ops</a:owner>`}
	for name, change := range map[string]func(*vm.Spec){
		"the host name": func(s *vm.Spec) { s.Hostname = "renamed" },
		"processors":    func(s *vm.Spec) { s.VCPUs, s.Refresh.MaxImpact = 2, 100 },
		"power":         func(s *vm.Spec) { s.Running = false },
		"the disk":      func(s *vm.Spec) { s.DiskSize *= 2 },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.spec()
			spec.LifeCycle = vm.LifeCycle{Autostart: true, Protected: true}
			w.create(t, spec)
			w.hypervisor.Alter("web-a",
				func(d *hypervisor.Domain) { d.Title, d.Description, d.Foreign = "mine", "by hand", foreign })
			change(&spec)
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
				t.Fatal(err)
			}
			w.mustHave(t, vm.LifeCycle{Autostart: true, Protected: true, Title: said("mine"),
				Description: said("by hand")})
			if defined := w.defined(t); !slices.Equal(defined.Foreign, foreign) {
				t.Errorf("metadata of others: %q", defined.Foreign)
			}
		})
	}
	t.Run("a refresh", func(t *testing.T) {
		w := newWorld(t)
		w.create(t, w.spec())
		w.hypervisor.Alter("web-a", func(d *hypervisor.Domain) { d.Title, d.Foreign = "mine", foreign })
		spec := w.spec()
		spec.Base, spec.LifeCycle.Description = w.new, said("ours")
		if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
			t.Fatal(err)
		}
		w.mustHave(t, vm.LifeCycle{Title: said("mine"), Description: said("ours")})
		if defined := w.defined(t); !slices.Equal(defined.Foreign, foreign) {
			t.Errorf("metadata of others: %q", defined.Foreign)
		}
	})
}

func TestAProtectedVMIsNotDeleted(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.LifeCycle.Protected = true
	w.create(t, spec)
	before := len(w.hypervisor.Calls())
	for _, name := range []string{"web-a", "its former name"} {
		if err := w.fleet.Delete(t.Context(), name, spec.UUID, quiet); !errors.Is(err, vm.ErrProtected) {
			t.Errorf("deleted by the name %q: %v", name, err)
		}
	}
	if calls := w.hypervisor.Calls()[before:]; len(calls) > 0 {
		t.Errorf("it did %v", calls)
	}
	if _, err := w.store.PrivateDisk(t.Context(), w.defined(t).Metadata.PrivateVolume); err != nil {
		t.Errorf("its private disk: %v", err)
	}
	spec.LifeCycle.Protected = false
	if err := w.fleet.SetLifeCycle(t.Context(), "web-a", spec.UUID, spec.LifeCycle); err != nil {
		t.Fatal(err)
	}
	if err := w.fleet.Delete(t.Context(), "web-a", spec.UUID, quiet); err != nil {
		t.Error(err)
	}
}

// A VM whose creation failed has no data, and can be replaced.
func TestAVMThatCouldNotBeMadeIsNeitherProtectedNorStartedWithTheHost(t *testing.T) {
	w := newWorld(t)
	w.hypervisor.OnStart = func(hypervisor.Domain) error { return errors.New("broken") }
	spec := w.spec()
	spec.LifeCycle = vm.LifeCycle{Autostart: true, Protected: true}
	spec.Disks = map[string]vm.Disk{"data": disk("data", func(d *vm.Disk) { d.Protected = true })}
	if _, err := w.fleet.Create(within(t, time.Minute), spec, quiet); err == nil {
		t.Fatal("it was made")
	}
	w.mustHave(t, vm.LifeCycle{Title: said(""), Description: said("")})
	if err := w.fleet.Delete(t.Context(), "web-a", spec.UUID, quiet); err != nil {
		t.Error(err)
	}
}

// A VM can be made deletable although nothing else of it can be changed.
func TestAVMWithoutItsDiskCanBeMadeDeletable(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.LifeCycle.Protected = true
	w.create(t, spec)
	if err := w.store.DeletePrivateDisk(t.Context(), w.defined(t).Metadata.PrivateVolume); err != nil {
		t.Fatal(err)
	}
	spec.LifeCycle.Protected, spec.Hostname = false, "renamed"
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrDiskGone) {
		t.Errorf("updated: %v", err)
	}
	if err := w.fleet.Delete(t.Context(), "web-a", spec.UUID, quiet); err != nil {
		t.Error(err)
	}
}

// The number of lists does not grow with the number of VMs that a plan reads.
func TestWhatStartsWithTheHostIsListedOnceForManyVMs(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Running = false
	w.create(t, spec)
	w.fleet.ListedFor = time.Minute
	lists := 0
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Autostarted" {
			lists++
		}
		return nil
	}
	want := vm.LifeCycle{Title: said(""), Description: said("")}
	for range 5 {
		w.mustHave(t, want)
	}
	if lists > 1 {
		t.Errorf("%d lists for 5 reads", lists)
	}
	// A change of this process is seen at once.
	want.Autostart = true
	if err := w.fleet.SetLifeCycle(t.Context(), "web-a", spec.UUID, want); err != nil {
		t.Fatal(err)
	}
	w.mustHave(t, want)
	// What a person has changed since the list was made is not overlooked by an apply.
	w.hypervisor.Autostart("web-a", false)
	if err := w.fleet.SetLifeCycle(t.Context(), "web-a", spec.UUID, want); err != nil {
		t.Fatal(err)
	}
	if found, err := w.hypervisor.Autostarted(t.Context()); err != nil || !found[spec.UUID] {
		t.Errorf("set again: %v, %v", found, err)
	}
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Autostarted" {
			return errors.New("broken")
		}
		return nil
	}
	w.fleet.ListedFor = -1
	if _, err := w.fleet.Read(t.Context(), "web-a"); err == nil {
		t.Error("what could not be listed was read as off")
	}
}

func TestAutostartThatCannotWorkIsToldInAPlan(t *testing.T) {
	off, on := vm.LifeCycle{}, vm.LifeCycle{Autostart: true}
	for name, c := range map[string]struct {
		have     *vm.LifeCycle
		want     vm.LifeCycle
		notAlone bool
		told     bool
	}{
		"a new VM":                 {nil, on, true, true},
		"it is asked for":          {&off, on, true, true},
		"it was there before":      {&on, on, true, false},
		"it is not asked for":      {nil, off, true, false},
		"the host can do it":       {nil, on, false, false},
		"it is no longer asked of": {&on, off, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.hypervisor.NotAlone = c.notAlone
			question := vm.Question{Want: w.spec()}
			question.Want.LifeCycle = c.want
			if c.have != nil {
				have := w.spec()
				have.LifeCycle = *c.have
				question.Have = &have
			}
			problems, err := w.fleet.Preflight(t.Context(), question)
			if err != nil {
				t.Fatal(err)
			}
			told := slices.IndexFunc(problems, func(p vm.Problem) bool { return p.Attribute[0] == "autostart" })
			if told >= 0 != c.told {
				t.Fatalf("problems %+v", problems)
			}
			if c.told && (!problems[told].Possible ||
				!strings.Contains(problems[told].Next, "/etc/libvirt/hooks/qemu.d/sharedos-vsock")) {
				t.Errorf("it says %+v", problems[told])
			}
		})
	}
}

// Without a readable record nothing protects a VM, and nothing can be recorded. Its resource must
// be able to let go of it.
func TestProtectionOfAVMWithoutARecordIsGivenUp(t *testing.T) {
	for name, lose := range map[string]func(*world){
		"damaged": func(w *world) { w.hypervisor.Damage("web-a") },
		"gone":    func(w *world) { w.hypervisor.Strip("web-a") },
	} {
		w := newWorld(t)
		w.create(t, w.spec())
		lose(w)
		if err := w.fleet.SetLifeCycle(t.Context(), "web-a", w.spec().UUID, vm.LifeCycle{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.fleet.SetLifeCycle(t.Context(), "web-a", w.spec().UUID, vm.LifeCycle{Protected: true}); err == nil {
			t.Errorf("%s: it says that the VM is protected", name)
		}
	}
}

package host_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// requireHeld checks whether the pool holds a release and all that it refers to.
func requireHeld(t *testing.T, h *host.Host, id tree.Digest, want bool) {
	t.Helper()
	_, err := h.Store.GetManifest(t.Context(), id)
	if held := err == nil; held != want || err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of release %s it is %v that the pool holds it: %v", id, held, err)
	}
}

// A release that only a VM kept goes when that VM is moved, and what the VM alone needed when it is
// deleted: in the same call, or, if somebody uses the pool, with the next.
func TestWhatAVMLetsGoIsGoneAtOnceOrWithTheNext(t *testing.T) {
	a, b := openTwo(t)
	a.Fleet.CollectLimit = time.Second
	old := publishOn(t, a, "1")
	spec := vm.Spec{Name: "web", UUID: uuid.NewString(), Base: old, VCPUs: 1, Memory: 512 << 20,
		DiskSize: 64 << 20, Hostname: "web"}
	quiet := func(string) {}
	_, err := a.Fleet.Create(t.Context(), spec, quiet)
	must(t, err)
	middle := publishOn(t, a, "2")
	_, err = a.Publisher.Retain(t.Context(), "os", 1, a.Fleet.InUse)
	must(t, err)
	requireHeld(t, a, old, true)

	// Another operator uploads something.
	_, unlock, err := b.Store.Lock(t.Context(), store.Shared, quiet)
	must(t, err)
	spec.Base = middle
	began := time.Now()
	moved, _, err := a.Fleet.Update(t.Context(), spec, quiet)
	must(t, err)
	if took := time.Since(began); !errors.Is(moved.NotCollected, vm.ErrNotCollected) || took > 20*time.Second {
		t.Errorf("after %s: %v", took, moved.NotCollected)
	}
	requireHeld(t, a, old, true)
	must(t, unlock())
	a.Fleet.CollectLimit = time.Minute // the pool is free now, and a busy machine may take its time

	newest := publishOn(t, a, "3")
	requireHeld(t, a, old, true)
	spec.Base = newest
	moved, _, err = b.Fleet.Update(t.Context(), spec, quiet)
	must(t, err)
	must(t, moved.NotCollected)
	for id, want := range map[tree.Digest]bool{old: false, middle: false, newest: true} {
		requireHeld(t, a, id, want)
	}
	requireBootable(t, a, "web")

	before, err := a.Store.Volumes(t.Context())
	must(t, err)
	must(t, a.Fleet.Delete(t.Context(), "web", spec.UUID, quiet))
	after, err := a.Store.Volumes(t.Context())
	must(t, err)
	if gone := len(before) - len(after); gone != 2 { // its private disk and its initramfs
		t.Errorf("with the VM went %d volumes: %v, %v", gone, before, after)
	}
	requireHeld(t, a, newest, true)
}

// A fleet that is destroyed takes along what only it needed, and nobody mistakes a VM that is half
// deleted for another host's.
func TestVMsThatAreDeletedAtOnceLeaveNothing(t *testing.T) {
	a, b := openTwo(t)
	base := publishOn(t, a, "1")
	before, err := a.Store.Volumes(t.Context())
	must(t, err)
	quiet := func(string) {}
	var wait sync.WaitGroup
	for i := range 8 {
		name := fmt.Sprint("web-", i)
		spec := vm.Spec{Name: name, UUID: uuid.NewString(), Base: base, VCPUs: 1, Memory: 512 << 20,
			DiskSize: 64 << 20, Hostname: name}
		_, err := a.Fleet.Create(t.Context(), spec, quiet)
		must(t, err)
		wait.Go(func() {
			time.Sleep(time.Second)
			fleet := a.Fleet
			if i%2 == 0 {
				fleet = b.Fleet
			}
			if err := fleet.Delete(t.Context(), name, spec.UUID, quiet); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	after, err := a.Store.Volumes(t.Context())
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("left are %v, and before there were %v", after, before)
	}
}

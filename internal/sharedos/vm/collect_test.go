package vm_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// second is another VM like the one of spec.
func (w *world) second() vm.Spec {
	spec := w.spec()
	spec.Name, spec.Hostname, spec.UUID = "web-b", "web-b", "6ba7b810-9dad-41d1-80b4-00c04fd430c9"
	return spec
}

func TestTheLastVMThatMovesHasWhatAllLetGoDeleted(t *testing.T) {
	w := newWorld(t)
	collected := 0
	w.fleet.Collect = func(context.Context) error { collected++; return nil }
	for i, spec := range []vm.Spec{w.spec(), w.second()} {
		w.create(t, spec)
		if collected != 0 {
			t.Errorf("making VM %d deleted something", i)
		}
	}
	for i, spec := range []vm.Spec{w.spec(), w.second()} {
		spec.Base = w.new
		for range 2 { // the second time nothing is released
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if err != nil || updated.NotCollected != nil || collected != i {
				t.Errorf("moving VM %d had what nothing needs deleted %d times: %v", i, collected, err)
			}
		}
	}
	for i, spec := range []vm.Spec{w.spec(), w.second()} {
		if err := w.fleet.Delete(within(t, time.Minute), spec.Name, spec.UUID, quiet); err != nil || collected != 1+i {
			t.Errorf("deleting VM %d had it deleted %d times: %v", i, collected, err)
		}
	}
	// A deletion that was cut off knows no more what the VM had.
	if err := w.fleet.Delete(within(t, time.Minute), "web-b", w.second().UUID, quiet); err != nil || collected != 3 {
		t.Errorf("%d times, %v", collected, err)
	}
}

func TestWhatCannotBeDeletedFailsNoUpdateAndNoDeletion(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.fleet.CollectLimit = 50 * time.Millisecond
	w.fleet.Collect = func(ctx context.Context) error {
		<-ctx.Done() // somebody else uses the pool
		return ctx.Err()
	}
	spec := w.spec()
	spec.Base = w.new
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || !report.GetCommitted() || updated.Stack.Base != w.new {
		t.Fatalf("updated %+v, %v, %v", updated, report, err)
	}
	if !errors.Is(updated.NotCollected, vm.ErrNotCollected) ||
		!strings.Contains(updated.NotCollected.Error(), w.old.String()) {
		t.Errorf("of what remains it says: %v", updated.NotCollected)
	}
	err = w.fleet.Delete(within(t, time.Minute), spec.Name, spec.UUID, quiet)
	if !errors.Is(err, vm.ErrNotCollected) || !strings.Contains(err.Error(), w.new.String()) {
		t.Errorf("of what remains it says: %v", err)
	}
	if _, err := w.fleet.Read(t.Context(), spec.Name); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("the VM is not deleted: %v", err)
	}
}

// createOff creates so many VMs that are off.
func createOff(t *testing.T, w *world, vms int) []vm.Spec {
	t.Helper()
	specs := make([]vm.Spec, vms)
	for i := range specs {
		specs[i] = w.spec()
		specs[i].Name, specs[i].UUID = fmt.Sprint("web-", i), fmt.Sprintf("6ba7b810-9dad-41d1-80b4-00c04fd4%04d", i)
		specs[i].Running = false
		w.create(t, specs[i])
	}
	return specs
}

// VMs that move one after the other share a list: it is made at the beginning, and when no VM is
// known to use the old release any more.
func TestVMsThatMoveOneByOneAreLookedAtTwice(t *testing.T) {
	w := newWorld(t)
	const vms = 12
	specs := createOff(t, w, vms)
	lists, collected := 0, 0
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "List" {
			lists++
		}
		return nil
	}
	w.fleet.Collect = func(context.Context) error { collected++; return nil }
	for i, spec := range specs {
		spec.Base = w.new
		if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
			t.Fatal(err)
		}
		if last := i == vms-1; collected != map[bool]int{true: 1}[last] {
			t.Errorf("after VM %d it was collected %d times", i, collected)
		}
	}
	if lists != 2 {
		t.Errorf("all VMs were listed %d times", lists)
	}
}

// However many VMs are moved at the same time, there is one collection.
func TestVMsThatMoveAtOnceAreLookedAtOnce(t *testing.T) {
	w := newWorld(t)
	const vms = 12
	specs := createOff(t, w, vms)
	var mu sync.Mutex
	calls := map[string]int{}
	var all, moved sync.WaitGroup
	all.Add(vms)
	w.hypervisor.Fail = func(method, _ string) error {
		mu.Lock()
		calls[method]++
		mu.Unlock()
		if method == "Define" {
			all.Done()
			all.Wait() // all have begun before one ends
		}
		return nil
	}
	w.fleet.Collect = func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		calls["Collect"]++
		return nil
	}
	for _, spec := range specs {
		spec.Base = w.new
		moved.Go(func() {
			if updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil ||
				updated.NotCollected != nil {
				t.Errorf("updated %+v, %v", updated, err)
			}
		})
	}
	moved.Wait()
	if calls["Collect"] != 1 || calls["List"] != 1 {
		t.Errorf("called were %v", calls)
	}
}

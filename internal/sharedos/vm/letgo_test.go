package vm_test

import (
	"context"
	"errors"
	"strings"
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
		for range 2 { // nothing is let go the second time
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if err != nil || updated.Remains != nil || collected != i {
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
	if !errors.Is(updated.Remains, vm.ErrRemains) || !strings.Contains(updated.Remains.Error(), w.old.String()) {
		t.Errorf("of what remains it says: %v", updated.Remains)
	}
	err = w.fleet.Delete(within(t, time.Minute), spec.Name, spec.UUID, quiet)
	if !errors.Is(err, vm.ErrRemains) || !strings.Contains(err.Error(), w.new.String()) {
		t.Errorf("of what remains it says: %v", err)
	}
	if _, err := w.fleet.Read(t.Context(), spec.Name); !errors.Is(err, vm.ErrNotFound) {
		t.Errorf("the VM is not deleted: %v", err)
	}
}

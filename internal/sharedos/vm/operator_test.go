package vm_test

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// An operator key that was lost and made anew is reported as that, and not as a silent agent. With
// the earlier key back in its place, the VM answers.
func TestAnotherOperatorKeyIsNamedAsTheCause(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	earlier := w.fleet.Key
	_, anew, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.fleet.Key = anew
	found, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || found.Answered || !errors.Is(found.NoAnswer, vm.ErrOperator) ||
		!errors.Is(found.NoAnswer, vm.ErrNoAnswer) {
		t.Errorf("%+v, %v", found.NoAnswer, err)
	}
	if _, err := w.fleet.Agent(t.Context(), "web-a"); !errors.Is(err, vm.ErrOperator) {
		t.Errorf("got %v", err)
	}
	w.fleet.Key = earlier
	if found, err := w.fleet.Read(t.Context(), "web-a"); err != nil || !found.Answered {
		t.Errorf("%+v, %v", found, err)
	}
}

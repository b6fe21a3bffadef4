package main

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

func TestThePageHasWhatTheCodeSays(t *testing.T) {
	page, err := page([]string{"../../.."})
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(page, "\n")
	for _, want := range []string{
		// A cause with what it means and what to do, one that wraps another, and one whose message says what to do.
		"| there is no such storage pool | libvirt has no such storage pool, so that nothing is in it. It matches ErrNotFound. | If the pool was undefined, ",
		"| " + vm.ErrProtected.Error() + " | a VM is protected from being deleted. | Nothing was changed. ",
		"| " + store.ErrShrink.Error() + " | ",
		// What to do comes from nextStep, also where another package declares the cause; from the
		// failure of an operation; from a table; and from the end of the messages.
		"| " + hypervisor.ErrUnreachable.Error() +
			" | libvirt did not answer. The state of what the call was about is unknown. | Check that libvirt runs",
		"| " + vm.ErrTakenBack.Error() +
			" | a guest could not take its configuration on, and is as before. | The guest has the configuration that",
		"| " + compose.ErrTwice.Error() +
			" | a component is in the list twice, or in the stack and on demand. | Remove one of the two ",
		"| " + vm.ErrVolumeGone.Error() +
			" | the volume of a further disk is not in its storage pool. | Put it back there, or ",
		// An error of an operation, a warning, and a constant in a text.
		"| error | Unable to create VM \"…\" | The cause. |",
		"| warning | VM \"…\" still runs old code | ",
		"| the operator key is not one that the VM was made with | ",
	} {
		found := 0
		for _, line := range lines {
			if strings.HasPrefix(line, want) {
				found++
			}
		}
		if found != 1 {
			t.Errorf("%d lines begin with %s", found, want)
		}
	}
	if without := strings.Count(page, "| The message says it. |"); without > 50 {
		t.Errorf("%d causes have no remedy", without)
	}
	for _, foreign := range []string{"%w", "%s", "%q", "| |\n", "|  |"} {
		if strings.Contains(page, foreign) {
			t.Errorf("the page has %q", foreign)
		}
	}
}

func TestThePageNeedsTheSource(t *testing.T) {
	if _, err := page([]string{t.TempDir()}); err == nil {
		t.Error("there is a page without a source")
	}
	if _, err := page(nil); err == nil {
		t.Error("there is a page without arguments")
	}
}

package main

import (
	"strings"
	"testing"

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

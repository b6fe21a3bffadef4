package guest_test

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// TestAWorldPublishesRunsRefreshesAndCutsPower is what every test with a guest rests on.
func TestAWorldPublishesRunsRefreshesAndCutsPower(t *testing.T) {
	w := guest.New(t)
	ids, err := w.Releases(t.Context(), "debian", guest.Plain,
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "one")},
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "two")})
	if err != nil {
		t.Fatal(err)
	}
	vm, err := w.Create(t.Context(), "world", ids[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	mark := func(want string) {
		t.Helper()
		if got, err := vm.Run(t.Context(), "cat /usr/share/mark"); err != nil || got != want {
			t.Fatalf("the guest has %q (%v), want %q", got, err, want)
		}
	}
	mark("one")
	report, err := vm.Refresh(t.Context(), ids[1])
	if err != nil {
		t.Fatal(err)
	}
	if !report.GetCommitted() {
		t.Fatalf("the refresh: %v", report)
	}
	mark("two")

	// A chain at its limit: the third release is one full layer, and takes the place of both.
	w.Host.Publisher.MaxChain = 2
	whole, err := w.Publish(t.Context(), "debian", guest.Plain, guest.Write("usr/share/mark", 0o644, "three"))
	if err != nil {
		t.Fatal(err)
	}
	report, err = vm.Refresh(t.Context(), whole)
	if err != nil {
		t.Fatal(err)
	}
	if !report.GetCommitted() || len(report.GetImpact().GetUnits()) > 0 {
		t.Fatalf("the refresh to one full layer: %v", report)
	}
	mark("three")
	if _, err := vm.Run(t.Context(), "echo kept > /root/kept && sync"); err != nil {
		t.Fatal(err)
	}
	if err := vm.CutPower(t.Context()); err != nil {
		t.Fatal(err)
	}
	status, err := vm.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if status.GetStack().GetBase() != whole.String() {
		t.Errorf("it booted %s", status.GetStack().GetBase())
	}
	mark("three")
	// What ran from the two layers before kept them until now.
	if layers, err := vm.Run(t.Context(), "ls /run/sharedos/layers"); err != nil || len(strings.Fields(layers)) != 1 {
		t.Errorf("layers in the guest: %q, %v, want one", layers, err)
	}
	if text, err := vm.Run(t.Context(), "cat /root/kept"); err != nil || strings.TrimSpace(text) != "kept" {
		t.Errorf("its own file: %q, %v", text, err)
	}
}

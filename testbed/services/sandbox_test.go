package services_test

import (
	"fmt"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// sandboxes checks services with mount namespaces of every kind: an affected one runs the new program afterwards,
// any other one runs on, and is reported if it still sees the old /usr.
func (h *house) sandboxes(t *testing.T) {
	var marks []string
	for i := range sandboxes {
		for _, unit := range []string{sandboxUnit(i, "changing"), sandboxUnit(i, "same")} {
			marks = append(marks, fmt.Sprintf("cat /proc/%d/root/usr/share/mark || true", h.after[unit].pid))
		}
	}
	seen, err := h.vm.RunAll(t.Context(), marks...)
	if err != nil {
		t.Fatal(err)
	}
	for i, sandbox := range sandboxes {
		t.Run(sandbox.name, func(t *testing.T) {
			affected, unaffected := sandboxUnit(i, "changing"), sandboxUnit(i, "same")
			if !h.restarted(affected) || len(h.stale(affected)) > 0 {
				t.Errorf("%s: %+v, then %+v; old code in %v", affected, h.before[affected],
					h.after[affected], h.stale(affected))
			}
			if !h.untouched(unaffected) {
				t.Errorf("%s: %+v, then %+v", unaffected, h.before[unaffected], h.after[unaffected])
			}
			now, sees := seen[2*i], seen[2*i+1]
			pinned := lists(h.report.GetPinned(), unaffected)
			if pinned != (sees == "one") {
				t.Errorf("%s sees release %q, and is reported as pinned: %v", unaffected, sees, pinned)
			}
			if now != "two" || lists(h.report.GetPinned(), affected) {
				t.Errorf("%s sees release %q", affected, now)
			}
			outcome := "new code; a service that is not affected sees the new /usr"
			if pinned {
				outcome = "new code; a service that is not affected is reported as pinned"
			}
			matrix.Record(t, sandbox.name, "refresh of a library or program", outcome)
		})
	}
	t.Run("RootDirectory= with its own files", func(t *testing.T) {
		if !h.untouched("own.service") || h.impact("own.service") != nil {
			t.Errorf("%+v, then %+v", h.before["own.service"], h.after["own.service"])
		}
		matrix.Record(t, "RootDirectory= with its own files", "refresh of a library or program", "left alone")
	})
}

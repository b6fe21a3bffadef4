package agentlife_test

import (
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// testClock makes the guest's clock jump between 1970 and 2100 every two seconds while the guest is refreshed and
// asked.
func testClock(to tree.Digest) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		run(t, v, "systemd-run -q --unit=jumps sh -c 'while :; do date -s @1000 >/dev/null; sleep 2; date -s @4102444800 >/dev/null; sleep 2; done'")
		settle := v.Spec.Refresh.Settle
		v.Spec.Refresh.Settle = 3 * time.Second
		began := time.Now()
		report, err := v.Refresh(t.Context(), to)
		v.Spec.Refresh.Settle = settle
		run(t, v, "systemctl stop jumps; date -s '"+time.Now().UTC().Format("2006-01-02 15:04:05")+"' >/dev/null")
		if err != nil || !report.GetCommitted() {
			t.Fatalf("after %v: %v, %v", time.Since(began), report, err)
		}
		matrix.Record(t, "the clock jumps between 1970 and 2100", "during a whole refresh",
			"the refresh commits, the agent answers")
		for _, at := range []string{"@1000", "@4102444800"} {
			run(t, v, "date -s "+at+" >/dev/null")
			if now, err := v.Status(t.Context()); err != nil || now.GetStack().GetBase() != to.String() {
				t.Errorf("at %s: %v", at, err)
			}
		}
		run(t, v, "date -s '"+time.Now().UTC().Format("2006-01-02 15:04:05")+"' >/dev/null")
		matrix.Record(t, "a clock at 1970 or 2100", "a new connection", "both sides accept each other's pinned key")
	}
}

package agentlife_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// residentLimit bounds the resident memory of an agent at rest, in bytes.
const residentLimit = 10 << 20

// testEndurance refreshes to and fro. The benchmark does it a hundred times.
func testEndurance(a, b tree.Digest) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		swing := func(to tree.Digest) {
			t.Helper()
			report, err := v.Swing(t.Context(), to)
			if err != nil || !report.GetCommitted() {
				t.Fatalf("%v, %v", report, err)
			}
		}
		// After the first refreshes in both directions, nothing further needs to be created.
		swing(a)
		swing(b)
		before, err := v.Weigh(t.Context())
		must(t, err)
		for range 5 {
			swing(a)
			swing(b)
		}
		after, err := v.Weigh(t.Context())
		must(t, err)
		t.Logf("before %+v, after %+v", before, after)
		if grown := after.Grown(before); grown != "" {
			t.Errorf("it has grown: %s", grown)
		}
		if after.ResidentBytes > residentLimit {
			t.Errorf("the agent takes %d bytes at rest", after.ResidentBytes)
		}
		matrix.Record(t, "ten refreshes in a row", "after the last one",
			"no more files, mounts, devices or goroutines than after the first")
	}
}

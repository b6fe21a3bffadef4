package agentlife_test

import (
	"strconv"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

func testGrowth(t *testing.T, v *guest.VM) {
	before := status(t, v)
	// A unit writes to the disk all the time.
	run(t, v, "systemd-run -q --unit=writer sh -c 'while :; do date >> /root/written; sync /root/written; done'")
	spec := v.Spec
	spec.DiskSize = 1 << 30
	updated, _, err := v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
	must(t, err)
	v.Spec = spec
	if updated.Spec.DiskSize != spec.DiskSize || updated.Agent.GetBootId() != before.GetBootId() {
		t.Fatalf("it has %d bytes, boot %s", updated.Spec.DiskSize, updated.Agent.GetBootId())
	}
	if grown := updated.Agent.GetDiskSizeBytes() - before.GetDiskSizeBytes(); grown < 450<<20 {
		t.Errorf("the file system has grown by %d bytes", grown)
	}
	if got := run(t, v, "systemctl is-active writer; systemctl stop writer; df -B1M --output=size /root | tail -1 | tr -d ' '"); got[:7] != "active\n" {
		t.Errorf("the writer: %q", got)
	} else if size, err := strconv.Atoi(got[7:]); err != nil || size < 900 {
		t.Errorf("df says %q", got)
	}
	matrix.Record(t, "a larger private disk", "while the VM runs and writes", "it grows and nothing is interrupted")
}

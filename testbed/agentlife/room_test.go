package agentlife_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// usrMount identifies the present mount of /usr and the release: a refused refresh changes neither.
func usrMount(t *testing.T, v *guest.VM) string {
	t.Helper()
	return run(t, v, "findmnt -n -o ID,SOURCE /usr; cat /usr/share/mark; sha256sum /etc/passwd")
}

// refused fails unless the VM refuses a refresh before anything changes, and the error says why.
func refused(t *testing.T, v *guest.VM, to tree.Digest, why string) {
	t.Helper()
	before := usrMount(t, v)
	report, err := v.Refresh(t.Context(), to)
	if err == nil || !guest.Says(err, why) {
		t.Errorf("it ended with %v, %v; want %q", report, err, why)
	}
	if report.GetCommitted() || len(report.GetRestarts()) > 0 {
		t.Errorf("it did something: %v", report)
	}
	if after := usrMount(t, v); after != before {
		t.Errorf("it changed\n%s to\n%s", before, after)
	}
}

// testRoom fills file systems in every way and clears them again.
func testRoom(to tree.Digest) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		for _, c := range []struct{ fault, step, fill, clear, why string }{
			{
				"no space on the private disk", "only the space reserved for root is free",
				"fallocate -l $(($(df -B1 --output=avail /root | tail -1) - 4194304)) /root/fill",
				"rm /root/fill", "bytes left of",
			},
			{
				"no space on the private disk", "no block is free",
				"fallocate -l $(df -B1 --output=avail /root | tail -1) /root/fill || true; dd if=/dev/zero of=/root/rest bs=4k status=none || true; sync -f /root",
				"rm /root/fill /root/rest", "",
			},
			{
				"no inodes on the private disk", "a few hundred are free",
				"mkdir /root/n; cd /root/n; perl -e 'my $i = 0; while (symlink \"x\", $i++) {} unlink 0..499'",
				"true", "inodes left of",
			},
			{
				"no inodes on the private disk", "none is free",
				"cd /root/n; perl -e 'my $i = 0; while ($i < 500) {symlink \"x\", $i++}'",
				"rm -r /root/n", "inodes left of",
			},
			{
				"no space in /run", "the contents lists are sent",
				"fallocate -l $(df -B1 --output=avail /run | tail -1) /run/fill", "rm /run/fill",
				"no space left on device",
			},
			{
				"no inodes in /run", "staged",
				"mount -o remount,nr_inodes=$(($(df --output=iused /run | tail -1) + 100)) /run",
				"mount -o remount,nr_inodes=800k /run", "inodes left of",
			},
		} {
			run(t, v, c.fill)
			refused(t, v, to, c.why)
			run(t, v, c.clear)
			if !t.Failed() {
				matrix.Record(t, c.fault, c.step, "refused before anything changes")
			}
		}
		refresh(t, v, to)
		matrix.Record(t, "no space, no inodes", "after space has been freed", "the refresh commits")
	}
}

// testReadOnly injects an ext4 error, after which the disk is read-only, and cuts the power.
func testReadOnly(to tree.Digest) func(*testing.T, *guest.VM) {
	return func(t *testing.T, v *guest.VM) {
		before := status(t, v)
		run(t, v, "echo broken > /sys/fs/ext4/$(basename $(findmnt -n -o SOURCE /run/sharedos/private))/trigger_fs_error; timeout 60 sh -c 'while touch /root/x 2>/dev/null; do sleep 0.1; done'")
		// From here on logins fail; the agent still answers.
		report, err := v.Refresh(t.Context(), to)
		if err == nil || !report.GetRefused() || report.GetCommitted() || len(report.GetRestarts()) > 0 {
			t.Errorf("it ended with %v, %v", report, err)
		}
		if now := status(t, v); now.GetStack().GetBase() != before.GetStack().GetBase() ||
			now.GetState() != agentapi.State_IDLE {
			t.Errorf("it runs %s, state %s", now.GetStack().GetBase(), now.GetState())
		}
		matrix.Record(t, "a read-only private disk", "staged", "refused before anything changes")
		console, err := os.ReadFile(v.Console())
		must(t, err)
		must(t, v.CutPower(t.Context()))
		after, err := v.Start(t.Context())
		must(t, err)
		if after.GetStack().GetBase() != before.GetStack().GetBase() {
			t.Errorf("it booted %s", after.GetStack().GetBase())
		}
		now, err := os.ReadFile(v.Console())
		must(t, err)
		if text := strings.TrimPrefix(string(now), string(console)); !strings.Contains(text,
			"has errors: checking it") {
			t.Errorf("the console does not tell of a check:\n%s", text[:min(len(text), 4000)])
		}
		run(t, v, "touch /root/x")
		matrix.Record(t, "an error in the private disk's file system", "the next boot",
			"checked before it is mounted, and reported on the console")
		refresh(t, v, to)
	}
}

// testPowerCut cuts power while files are written and synced.
func testPowerCut(t *testing.T, v *guest.VM) {
	run(t, v, "systemd-run -q --unit=writer sh -c 'i=0; while :; do i=$((i+1)); echo $i > /root/count.new; sync /root/count.new; mv /root/count.new /root/count; sync -f /root; date >> /root/log; done'")
	run(t, v, "until test -s /root/count; do sleep 0.1; done; sleep 2")
	count := run(t, v, "echo $(($(cat /root/count) - 1))") // the file with this number was synced
	before, mark := status(t, v), run(t, v, "cat /usr/share/mark")
	must(t, v.CutPower(t.Context()))
	after, err := v.Start(t.Context())
	must(t, err)
	if after.GetState() != agentapi.State_IDLE || after.GetStack().GetBase() != before.GetStack().GetBase() {
		t.Errorf("state %s, stack %v, and it was %v", after.GetState(), after.GetStack(), before.GetStack())
	}
	if got := run(t, v, "cat /usr/share/mark"); got != mark {
		t.Errorf("it has release %q, and had %q", got, mark)
	}
	// Until the power cut, the root file system still used the layer of the first release.
	layers := strings.Fields(run(t, v, "ls /run/sharedos/layers"))
	if want := len(after.GetStack().GetLayers()); len(layers) != want || want >= len(before.GetAttached()) {
		t.Errorf("it has mounted the layers %q, attached were %q, and its stack has %d", layers,
			before.GetAttached(), want)
	}
	got := run(t, v, "test $(cat /root/count) -ge "+count+" && echo kept; dmesg | grep -c 'EXT4-fs error' || true")
	if got != "kept\n0" {
		t.Errorf("after the power cut: %q", got)
	}
	if len(v.Spec.Disks) > 0 { // see testDisks
		if got := run(t, v, "cat /srv/lent/file; systemctl is-active srv-lent.mount"); got != "kept\nactive" {
			t.Errorf("the disk that was attached while it ran, after the power cut: %q", got)
		}
	}
	matrix.Record(t, "power cut", "while the private disk is written to",
		"the journal is replayed; what was synced is there")
}

package agentlife_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// testIdentity changes the host name and root's keys of the running VM.
func testIdentity(t *testing.T, v *guest.VM) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA further"
	before, boot := v.Spec, status(t, v).GetBootId()
	for _, wanted := range []string{"renamed.example.org", before.Hostname} {
		spec := before
		if spec.Hostname = wanted; wanted != before.Hostname {
			spec.AuthorizedKeys = append(slices.Clone(before.AuthorizedKeys), key)
		}
		_, report, err := v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
		must(t, err)
		v.Spec = spec
		short, _, _ := strings.Cut(wanted, ".")
		keys := "0"
		if wanted != before.Hostname { // the firmware of a guest that reboots by itself has what it had
			keys = "1"
			run(t, v, "systemd-run -q --on-active=1 systemctl reboot")
			boot = await(t, v, "waiting for the reboot", func(s *agentapi.StatusResponse) bool {
				return s.GetBootId() != boot && s.GetSystemState() == "running"
			}).GetBootId()
		}
		got := run(t, v, "uname -n; cat /etc/hostname; getent hosts "+short+
			" | cut -d' ' -f1; grep -c further /root/.ssh/authorized_keys; systemctl is-system-running")
		if want := strings.Join([]string{wanted, wanted, "127.0.1.1", keys, "running"}, "\n"); got != want ||
			report != nil {
			t.Errorf("it is\n%s\nwant\n%s\nand the report is %v", got, want, report)
		}
	}
	if now := status(t, v).GetBootId(); now != boot {
		t.Error("it was started again")
	}
}

package services_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// abi is a file of the parser's package that lists features of AppArmor. The kernel of this machine, which may have
// no AppArmor, does not matter then.
const abi = "/etc/apparmor.d/abi/3.0"

// confine loads two AppArmor profiles in the guest and starts a service under each. One profile attaches
// disconnected paths; its text is in the guest, for the agent to read.
func (h *house) confine(t *testing.T) {
	t.Helper()
	if enabled := h.run(t, "cat /sys/module/apparmor/parameters/enabled"); enabled != "Y" {
		t.Fatalf("the guest's kernel has no AppArmor: %q", enabled)
	}
	for _, profile := range []string{"t-plain", "t-attached"} {
		text := filepath.Join("testdata", "apparmor", profile)
		compiled := filepath.Join(t.TempDir(), profile)
		output, err := exec.Command("apparmor_parser", "--skip-kernel-load", "--skip-cache", "--kernel-features", abi,
			"--policy-features", abi, "--ofile", compiled, text).CombinedOutput()
		if err != nil {
			t.Fatalf("compile %s: %v: %s", profile, err, output)
		}
		policy, err := os.ReadFile(compiled)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.vm.RunWith(t.Context(),
			"cat > /run/policy && cat /run/policy > /sys/kernel/security/apparmor/.load",
			bytes.NewReader(policy)); err != nil {
			t.Fatal(err)
		}
		source, err := os.ReadFile(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.vm.RunWith(t.Context(), "mkdir -p /etc/apparmor.d && cat > /etc/apparmor.d/"+profile,
			bytes.NewReader(source)); err != nil {
			t.Fatal(err)
		}
	}
	h.run(t, "systemctl start plain.service attached.service")
}

// confined checks that a service is restarted whose profile does not attach disconnected paths: it may not open
// files of a /usr that was swapped out.
func (h *house) confined(t *testing.T) {
	for unit, profile := range map[string]string{"plain.service": "t-plain", "attached.service": "t-attached"} {
		now := h.run(t, "cat /proc/$(systemctl show --property=MainPID --value "+unit+")/attr/apparmor/current")
		if now != profile+" (enforce)" {
			t.Errorf("%s runs under %q", unit, now)
		}
	}
	if !h.restarted("plain.service") ||
		!strings.Contains(h.impact("plain.service").GetReason(), "AppArmor profile t-plain") {
		t.Errorf("plain.service: %+v, then %+v, planned as %v", h.before["plain.service"], h.after["plain.service"],
			h.impact("plain.service"))
	}
	matrix.Record(t, "an AppArmor profile", "refresh of other files", "restarted")
	if !h.untouched("attached.service") || h.impact("attached.service") != nil {
		t.Errorf("attached.service: %+v, then %+v", h.before["attached.service"], h.after["attached.service"])
	}
	matrix.Record(t, "an AppArmor profile that attaches disconnected paths", "refresh of other files", "left alone")
}

package ladder_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

func TestSoft(t *testing.T) {
	w := guest.New(t)
	ids, err := w.Releases(t.Context(), "debian", guest.Plain,
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "one"), guest.Write("etc/mark", 0o644, "one")},
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "two"), guest.Write("etc/mark", 0o644, "two"), guest.Append("/ld-linux-x86-64.so.2", "\x00")})
	if err != nil {
		t.Fatal(err)
	}
	v, err := w.Create(t.Context(), "ladder", ids[0], func(s *vm.Spec) {
		s.Refresh.Strategy, s.Refresh.MaxImpact = "soft_reboot", agentapi.Level_SOFT_REBOOT
		s.Refresh.HealthChecks = []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Http{Http: "http://127.0.0.1/"}}}
	})
	if err != nil {
		t.Fatal(err)
	}
	report, err := v.Refresh(t.Context(), ids[1])
	t.Logf("%v", report)
	if err != nil {
		t.Error(err)
	}
	text, err := v.Run(t.Context(), "cat /usr/share/mark /etc/mark; cat /proc/self/mountinfo; cat /run/sharedos/boot.json; ls -la /run/nextroot /run/sharedos; journalctl -b --no-pager | tail -150; systemctl --failed; systemctl is-system-running; dmesg | tail -30")
	t.Log(text, err)
}

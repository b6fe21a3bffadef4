package agentlife_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// When Create has returned, the VM has an address and knows the name server that DHCP has brought. It has no
// systemd-resolved, as the VM of the quickstart.
func testNetwork(t *testing.T, v *guest.VM) {
	if got := status(t, v).GetNetwork().GetAddresses(); !slices.Contains(got, "10.0.2.15") {
		t.Errorf("its addresses are %q", got)
	}
	// They are those of the interface that the host has given it, and not link-local ones.
	found, err := v.World.Host.Fleet.Read(t.Context(), v.Spec.Name)
	must(t, err)
	if got := found.Addresses["lan"]; len(found.Addresses) != 1 ||
		!slices.Contains(got, netip.MustParseAddr("10.0.2.15")) ||
		slices.ContainsFunc(got, netip.Addr.IsLinkLocalUnicast) {
		t.Errorf("the addresses of its interfaces are %v", found.Addresses)
	}
	text := run(
		t, v, "test ! -e /usr/lib/systemd/systemd-resolved; timeout 90 systemctl start network-online.target; cat "+
			"/etc/resolv.conf; systemctl is-active sharedos-resolver.path systemd-networkd-wait-online.service; "+
			"systemctl is-failed sharedos-resolver.service || true; systemctl is-system-running")
	if !strings.Contains(text, "nameserver 10.0.2.3\n") ||
		!strings.HasSuffix(text, "\nactive\nactive\ninactive\nrunning") {
		t.Errorf("the guest says\n%s\n%s", text,
			run(t, v, "systemctl status --no-pager 'sharedos-resolver*' systemd-networkd-wait-online; cat /run/systemd/netif/state"))
	}
	// Name servers that are lost come back with what networkd says next.
	run(t, v, "rm /run/sharedos/resolv.conf; touch /run/systemd/netif/state; for i in $(seq 50); do grep -q 10.0.2.3 /etc/resolv.conf && exit 0; sleep 0.5; done; exit 1")
}

// testInterfaces attaches an interface on a bridge, has it get another card, moves it, and detaches
// it, while the VM runs.
func testInterfaces(t *testing.T, v *guest.VM) {
	before := status(t, v)
	const mac, other, at = "52:54:00:00:07:02", "52:54:00:00:07:03", "198.51.100.2"
	bridges := map[string]string{}
	for name, address := range map[string]string{"one": "198.51.100.1/30", "two": ""} {
		bridge := fmt.Sprintf("so-%d%s", os.Getpid(), name)
		bridges[name] = bridge
		script := fmt.Sprintf("ip link add %s type bridge && ip link set %[1]s up", bridge)
		if address != "" {
			script += fmt.Sprintf(" && ip address add %s dev %s", address, bridge)
		}
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
			t.Fatalf("make a bridge: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "ip", "link", "del",
				bridge).CombinedOutput(); err != nil {
				t.Errorf("remove the bridge: %v: %s", err, out)
			}
		})
	}
	run(t, v, "printf '[Match]\\nMACAddress="+mac+" "+other+"\\n[Network]\\nAddress="+at+
		"/30\\n' >/run/systemd/network/05-back.network && networkctl reload")
	was := v.Spec
	update := func(back *hypervisor.Interface) *vm.VM {
		t.Helper()
		spec := was
		spec.Interfaces = maps.Clone(was.Interfaces)
		if back != nil {
			spec.Interfaces["back"] = *back
		}
		updated, _, err := v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
		must(t, err)
		v.Spec = spec
		if updated.Agent.GetBootId() != before.GetBootId() || len(updated.Faults) > 0 {
			t.Fatalf("boot %s, faults %v", updated.Agent.GetBootId(), updated.Faults)
		}
		return updated
	}
	mustHave := func(updated *vm.VM) {
		t.Helper()
		if got := updated.Addresses["back"]; !slices.Contains(got, netip.MustParseAddr(at)) {
			t.Errorf("its addresses are %v", updated.Addresses)
		}
	}
	mustHave(update(&hypervisor.Interface{Bridge: bridges["one"], MAC: mac}))
	dialer := net.Dialer{Timeout: 30 * time.Second}
	conn, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(at, "22"))
	must(t, err)
	must(t, conn.Close())
	mustHave(update(&hypervisor.Interface{Bridge: bridges["one"], MAC: other, MTU: 1400}))
	card := "$(basename $(dirname $(grep -l " + other + " /sys/class/net/*/address)))"
	if got := run(t, v, "! grep -q "+mac+" /sys/class/net/*/address && cat /sys/class/net/"+
		card+"/mtu"); got != "1400" {
		t.Errorf("its MTU is %q", got)
	}
	update(&hypervisor.Interface{Bridge: bridges["two"], MAC: other, MTU: 1400})
	if got := run(t, v, "cat /sys/class/net/"+card+"/carrier_down_count"); got == "0" {
		t.Error("the guest has not seen that the interface moved")
	}
	update(nil)
	if got := run(t, v, "grep -c 52:54:00:00:07 /sys/class/net/*/address | grep -vc ':0$' || true; rm /run/systemd/network/05-back.network; networkctl reload"); got != "0" {
		t.Errorf("it still has the interface: %q", got)
	}
}

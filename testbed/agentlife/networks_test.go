package agentlife_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// staticLAN are networks of a VM whose interface has static addresses.
func staticLAN(addresses ...string) map[string]guestconfig.Network {
	return map[string]guestconfig.Network{"lan": {
		Addresses: addresses, Gateways: []string{"10.0.2.2"},
		Routes: []guestconfig.Route{{To: "192.0.2.0/24", Via: "10.0.2.2"}},
		DNS:    []string{"10.0.2.3"}, Search: []string{"example.org"}, MTU: 1400,
	}}
}

// testFirstNetwork finds a VM whose first boot has begun with a static address, and has it use DHCP.
func testFirstNetwork(t *testing.T, v *guest.VM) {
	text := run(
		t, v, "ip -4 -o address; ls -d /etc/systemd/network/05-sharedos-* /run/systemd/network/05-sharedos-* 2>/dev/null; systemctl is-system-running")
	if !strings.Contains(text, "10.0.2.15/24") ||
		!strings.Contains(text, "/etc/systemd/network/05-sharedos-lan.network\n") ||
		strings.Contains(text, "/run/systemd/network/05-sharedos-lan.network\n") ||
		!strings.HasSuffix(text, "\nrunning") {
		t.Errorf("it says\n%s", text)
	}
	// It has never asked for an address.
	if log := run(t, v, "journalctl --boot --unit systemd-networkd --no-pager --output cat"); log == "" ||
		strings.Contains(log, "DHCP") {
		t.Errorf("its network manager says\n%s", log)
	}
	v.Spec.Configuration, v.Spec.Refresh.MaxImpact = guestconfig.New(), agentapi.Level_RESTART
	_, _, err := v.World.Host.Fleet.Update(t.Context(), v.Spec, func(step string) { t.Log(step) })
	must(t, err)
}

// testNetworks has a running VM use its interface with static addresses and then by DHCP again.
// What was added to another interface by hand stays, and an address by which nobody reaches the
// guest does not keep it from being changed.
func testNetworks(t *testing.T, v *guest.VM) {
	run(t, v, "ip link add byhand type dummy && ip link set byhand up && ip address add 198.51.100.9/24 dev byhand")
	update := func(networks map[string]guestconfig.Network) {
		t.Helper()
		spec := v.Spec
		document := *spec.Configuration
		document.Networks = maps.Clone(networks)
		spec.Configuration = &document
		_, _, err := v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
		must(t, err)
	}
	update(staticLAN("10.0.2.15/24", "10.0.2.77/24")) // the test reaches the first of them
	text := run(
		t, v, "ip -4 -o address; ip -4 route; cat /sys/class/net/e*/mtu; for i in $(seq 50); do grep -q example.org /etc/resolv.conf && break; sleep 0.2; done; cat /etc/resolv.conf")
	for _, want := range []string{
		"10.0.2.15/24", "10.0.2.77/24", "198.51.100.9/24", "default via 10.0.2.2 dev", "192.0.2.0/24 via 10.0.2.2",
		"metric 100", "\n1400\n", "nameserver 10.0.2.3", "example.org",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("there is no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "dynamic") || strings.Contains(text, "proto dhcp") {
		t.Errorf("it still has what DHCP brought:\n%s", text)
	}
	update(staticLAN("10.0.2.99/24")) // the test does not reach it there, and its agent is asked by vsock
	update(nil)
	text = run(
		t, v, "ip -4 -o address; ls /etc/systemd/network/ /run/systemd/network/; ip link del byhand; systemctl is-system-running")
	if !strings.Contains(text, "10.0.2.15/24") || !strings.Contains(text, "198.51.100.9/24") ||
		strings.Contains(text, "10.0.2.99") ||
		strings.Contains(text, "05-sharedos") || !strings.HasSuffix(text, "\nrunning") {
		t.Errorf("by DHCP again, it says\n%s", text)
	}
}

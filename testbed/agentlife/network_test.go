package agentlife_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

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
	if got := found.Addresses["lan"]; len(found.Addresses) != 1 || !slices.Contains(got, netip.MustParseAddr("10.0.2.15")) ||
		slices.ContainsFunc(got, netip.Addr.IsLinkLocalUnicast) {
		t.Errorf("the addresses of its interfaces are %v", found.Addresses)
	}
	text := run(t, v, "test ! -e /usr/lib/systemd/systemd-resolved; timeout 90 systemctl start network-online.target; cat /etc/resolv.conf; "+
		"systemctl is-active sharedos-resolver.path systemd-networkd-wait-online.service; systemctl is-failed sharedos-resolver.service || true; systemctl is-system-running")
	if !strings.Contains(text, "nameserver 10.0.2.3\n") || !strings.HasSuffix(text, "\nactive\nactive\ninactive\nrunning") {
		t.Errorf("the guest says\n%s\n%s", text, run(t, v, "systemctl status --no-pager 'sharedos-resolver*' systemd-networkd-wait-online; cat /run/systemd/netif/state"))
	}
	// Name servers that are lost come back with what networkd says next.
	run(t, v, "rm /run/sharedos/resolv.conf; touch /run/systemd/netif/state; for i in $(seq 50); do grep -q 10.0.2.3 /etc/resolv.conf && exit 0; sleep 0.5; done; exit 1")
}

package guestconfig_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

func TestNetworksAreWrittenForTheirManager(t *testing.T) {
	t.Parallel()
	for manager, want := range map[guestconfig.Manager]map[string]string{
		guestconfig.NoManager: {},
		guestconfig.Networkd: {
			"/etc/systemd/network/05-sharedos-lan.network": `[Match]
MACAddress=52:54:00:00:00:01
Type=ether
Kind=!*

[Link]
MTUBytes=1400

[Network]
DHCP=no
IPv6AcceptRA=yes
Address=192.0.2.10/24
Address=2001:db8::a/64
DNS=192.0.2.3
DNS=2001:db8::3
Domains=example.org a.test

[IPv6AcceptRA]
DHCPv6Client=no

[Route]
Destination=0.0.0.0/0
Gateway=192.0.2.1
Metric=100

[Route]
Destination=::/0
Gateway=fe80::1
Metric=100

[Route]
Destination=10.0.0.0/8
Gateway=192.0.2.2
Metric=7

[Route]
Destination=198.51.100.0/24
Metric=100
`,
			"/etc/systemd/network/05-sharedos-wan.network": `[Match]
MACAddress=52:54:00:00:00:02
Type=ether
Kind=!*

[Network]
DHCP=yes
IPv6AcceptRA=no

[DHCPv4]
RouteMetric=50

[DHCPv6]
WithoutRA=solicit
`,
		},
		guestconfig.NetworkManager: {
			"/etc/NetworkManager/system-connections/sharedos-lan.nmconnection": `[connection]
id=sharedos-lan
uuid=` + full().Networks["lan"].ConnectionUUID("lan") + `
type=ethernet
autoconnect=true
autoconnect-priority=999

[ethernet]
mac-address=52:54:00:00:00:01
mtu=1400

[ipv4]
method=manual
address1=192.0.2.10/24
route1=0.0.0.0/0,192.0.2.1,100
route2=10.0.0.0/8,192.0.2.2,7
route3=198.51.100.0/24,0.0.0.0,100
dns=192.0.2.3;
dns-search=example.org;a.test;

[ipv6]
method=auto
address1=2001:db8::a/64
route1=::/0,fe80::1,100
dns=2001:db8::3;
dns-search=example.org;a.test;
`,
			"/etc/NetworkManager/system-connections/sharedos-wan.nmconnection": `[connection]
id=sharedos-wan
uuid=` + full().Networks["wan"].ConnectionUUID("wan") + `
type=ethernet
autoconnect=true
autoconnect-priority=999

[ethernet]
mac-address=52:54:00:00:00:02

[ipv4]
method=auto
route-metric=50

[ipv6]
method=dhcp
route-metric=50
`,
		},
	} {
		items := full().NetworkItems(manager)
		if len(items) != len(want) {
			t.Errorf("%q has %d files", manager, len(items))
		}
		for _, item := range items {
			if got := string(item.Content); got != want[item.Path] {
				t.Errorf("%s is\n%s\nwant\n%s", item.Path, got, want[item.Path])
			}
			// NetworkManager ignores a file that others can read, and networkd reads it as an account of its own.
			if mode := map[guestconfig.Manager]uint32{guestconfig.Networkd: 0o644,
				guestconfig.NetworkManager: 0o600}[manager]; item.Mode != mode || item.Owner != "root" {
				t.Errorf("%s has mode %o and owner %s", item.Path, item.Mode, item.Owner)
			}
		}
	}
}

func TestANetworkBelongsToTheInterfaceOfItsName(t *testing.T) {
	t.Parallel()
	d := guestconfig.New()
	d.Networks = map[string]guestconfig.Network{"lan": {DHCP4: true}, "wan": {DHCP4: true}}
	text, err := d.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if problems := d.Check(); len(problems) > 0 {
		t.Errorf("a configuration without MAC addresses: %v", problems)
	}
	if _, err := guestconfig.Decode(text); !errors.Is(err, guestconfig.ErrDocument) {
		t.Errorf("a guest would be given networks of no interface: %v", err)
	}
	macs := map[string]string{"lan": "52:54:00:00:00:01", "wan": "52:54:00:00:00:02"}
	bound := d.WithAddresses(macs)
	if text, err = bound.Encode(); err != nil {
		t.Fatal(err)
	}
	if _, err := guestconfig.Decode(text); err != nil || bound.Networks["wan"].MAC != macs["wan"] ||
		d.Networks["wan"].MAC != "" {
		t.Errorf("%v, %+v from %+v", err, bound.Networks, d.Networks)
	}
	macs["wan"] = "52:54:00:00:00:03" // the guest has the network of an interface that the VM does not have any more
	if got := bound.WithoutAddresses(macs).Networks; len(got) != 1 || !got["lan"].DHCP4 || got["lan"].MAC != "" {
		t.Errorf("of the VM are %+v", got)
	}
}

func TestACanonicalAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"2001:DB8:0::1": "2001:db8::1", "2001:DB8::1/64": "2001:db8::1/64",
		"192.0.2.1": "192.0.2.1", "192.0.2.01": "192.0.2.01", "x": "x", "": ""} {
		if got := guestconfig.CanonicalAddress(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

// NetworkManager refuses a profile with name servers or domains of a family without addresses.
func TestAFamilyWithoutAddressesHasNoNameServers(t *testing.T) {
	t.Parallel()
	d := guestconfig.New()
	lan := guestconfig.Network{MAC: "52:54:00:00:00:01", Addresses: []string{"192.0.2.10/24"},
		Search: []string{"example.org"}}
	d.Networks = map[string]guestconfig.Network{"lan": lan}
	if problems := d.Check(); len(problems) > 0 {
		t.Error(problems)
	}
	text := string(d.NetworkItems(guestconfig.NetworkManager)[0].Content)
	if _, six, _ := strings.Cut(text, "[ipv6]"); six != "\nmethod=link-local\n" ||
		strings.Count(text, "dns-search") != 1 {
		t.Errorf("the profile is\n%s", text)
	}
	for what, network := range map[string]guestconfig.Network{
		"dns":    {MAC: lan.MAC, Addresses: lan.Addresses, DNS: []string{"2001:db8::1"}},
		"search": {MAC: lan.MAC, Search: lan.Search},
	} {
		d.Networks = map[string]guestconfig.Network{"lan": network}
		if problems := d.Check(); len(problems) != 1 || !strings.Contains(problems[0].Error(), "gets no") {
			t.Errorf("%s: %v", what, problems)
		}
	}
}

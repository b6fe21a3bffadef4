package vm

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func TestTheAddressesThatAnAgentSays(t *testing.T) {
	const mac, other = "52:54:00:00:00:01", "52:54:00:00:00:02"
	says := func(mac string, addresses ...string) *agentapi.InterfaceAddresses {
		return &agentapi.InterfaceAddresses{Mac: mac, Addresses: addresses}
	}
	many := make([]string, 1000)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 0, byte(i / 256), byte(i)}).String()
	}
	flood := make([]*agentapi.InterfaceAddresses, 1000)
	for i := range flood {
		flood[i] = says("02:00:00:00:00:01")
	}
	derived := hypervisor.MAC("uuid", "own")
	for name, test := range map[string]struct {
		said []*agentapi.InterfaceAddresses
		want string
	}{
		"nothing, as an agent of an earlier version": {nil, "map[]"},
		"an interface without an address":            {[]*agentapi.InterfaceAddresses{says(mac)}, "map[lan:[] own:[]]"},
		"both kinds, in order": {[]*agentapi.InterfaceAddresses{says(mac, "2001:db8::1",
			"10.0.0.2", "10.0.0.1")}, "map[lan:[10.0.0.1 10.0.0.2 2001:db8::1] own:[]]"},
		"a derived MAC address": {[]*agentapi.InterfaceAddresses{says(derived, "10.0.0.1")},
			"map[lan:[] own:[10.0.0.1]]"},
		"a MAC address in capitals": {[]*agentapi.InterfaceAddresses{says("52-54-00-00-00-01",
			"10.0.0.1")}, "map[lan:[10.0.0.1] own:[]]"},
		"a bridge on the interface": {[]*agentapi.InterfaceAddresses{says(mac), says(mac, "10.0.0.1")},
			"map[lan:[10.0.0.1] own:[]]"},
		"twice": {[]*agentapi.InterfaceAddresses{says(mac, "10.0.0.1",
			"::ffff:10.0.0.1"), says(mac, "10.0.0.1")}, "map[lan:[10.0.0.1] own:[]]"},
		"link-local beside others": {[]*agentapi.InterfaceAddresses{says(mac, "fe80::1",
			"169.254.0.1", "10.0.0.1")}, "map[lan:[10.0.0.1] own:[]]"},
		"link-local alone": {[]*agentapi.InterfaceAddresses{says(mac, "fe80::1",
			"169.254.0.1")}, "map[lan:[169.254.0.1 fe80::1] own:[]]"},
		"an interface that the host has not given": {[]*agentapi.InterfaceAddresses{says(other, "10.0.0.1")},
			"map[lan:[] own:[]]"},
		"what is no address": {
			[]*agentapi.InterfaceAddresses{says("none", "10.0.0.1"),
				says(mac, "", "10.0.0.1/24", "web.example", "fe80::1%eth0", "127.0.0.1", "224.0.0.1",
					"0.0.0.0", "::", "\x1b[31m")},
			"map[lan:[] own:[]]",
		},
		"very many interfaces": {slices.Concat(flood, []*agentapi.InterfaceAddresses{says(mac, "10.0.0.1")}), "map[lan:[] own:[]]"},
	} {
		t.Run(name, func(t *testing.T) {
			domain := hypervisor.Domain{UUID: "uuid",
				Interfaces: map[string]hypervisor.Interface{"lan": {Bridge: "br0", MAC: mac}, "own": {Bridge: "br0"}}}
			got := addresses(domain, &agentapi.Network{Interfaces: test.said})
			if fmt.Sprint(got) != test.want || (got == nil) != (test.said == nil) {
				t.Errorf("%v, want %s", got, test.want)
			}
		})
	}
	domain := hypervisor.Domain{Interfaces: map[string]hypervisor.Interface{"lan": {Bridge: "br0", MAC: mac}}}
	if got := addresses(domain,
		&agentapi.Network{Interfaces: []*agentapi.InterfaceAddresses{says(mac,
			many...)}}); len(got["lan"]) != maxAddresses {
		t.Errorf("%d addresses", len(got["lan"]))
	}
	if got := addresses(hypervisor.Domain{}, nil); got == nil || len(got) != 0 {
		t.Errorf("without interfaces: %v", got)
	}
}

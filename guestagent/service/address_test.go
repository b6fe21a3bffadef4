package service

import (
	"net"
	"slices"
	"testing"
)

func TestTheAddressesThatOthersReach(t *testing.T) {
	var all []net.Addr
	for _, one := range []string{"127.0.0.1/8", "::1/128", "fe80::1/64", "169.254.3.4/16", "2001:db8::5/64", "10.0.2.15/24", "fec0::1/64"} {
		ip, in, err := net.ParseCIDR(one)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, &net.IPNet{IP: ip, Mask: in.Mask})
	}
	if got, want := reachable(all).GetAddresses(), []string{"10.0.2.15", "2001:db8::5", "fec0::1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if reachable(nil) == nil {
		t.Error("a VM without an address does not say that it has none")
	}
}

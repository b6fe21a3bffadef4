package service

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestTheAddressesThatOthersReach(t *testing.T) {
	byIndex := map[int][]netip.Addr{}
	for i, one := range []string{"127.0.0.1", "::1", "fe80::1", "169.254.3.4", "2001:db8::5", "10.0.2.15",
		"fec0::1", "224.0.0.1"} {
		byIndex[i] = []netip.Addr{netip.MustParseAddr(one)}
	}
	if got, want := networkOf(nil, byIndex).GetAddresses(),
		[]string{"10.0.2.15", "2001:db8::5", "fec0::1"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if networkOf(nil, nil) == nil {
		t.Error("a VM without an address does not say that it has none")
	}
}

func TestTheAddressesOfEachInterface(t *testing.T) {
	card := func(index int, mac string) net.Interface {
		one := net.Interface{Index: index}
		if mac != "" {
			var err error
			if one.HardwareAddr, err = net.ParseMAC(mac); err != nil {
				t.Fatal(err)
			}
		}
		return one
	}
	many := make([]netip.Addr, 40)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{10, 1, 0, byte(i)})
	}
	interfaces := []net.Interface{
		card(9, "52:54:00:00:00:09"), card(1, ""), card(2, "52:54:00:00:00:02"), card(3, "52:54:00:00:00:02"),
		card(4, "52:54:00:00:00:04"),
		card(5, "00:00:00:00:fe:80:00:00:00:00:00:00:02:00:5e:10:00:00:00:01"), // of InfiniBand
	}
	network := networkOf(interfaces, map[int][]netip.Addr{
		1: {netip.MustParseAddr("127.0.0.1")},
		2: {netip.MustParseAddr("fe80::2"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("10.0.0.2"),
			netip.MustParseAddr("224.0.0.1")},
		3: {netip.MustParseAddr("10.0.0.3")}, 9: many,
	})
	var got []string
	for _, one := range network.GetInterfaces() {
		got = append(got, fmt.Sprint(one.GetMac(), one.GetAddresses()))
	}
	if len(got) != 4 || len(network.GetInterfaces()[3].GetAddresses()) != maxAddresses {
		t.Fatalf("%q", got)
	}
	want := []string{"52:54:00:00:00:02[10.0.0.2 2001:db8::2 fe80::2]",
		"52:54:00:00:00:02[10.0.0.3]", "52:54:00:00:00:04[]"}
	if diff := cmp.Diff(want, got[:3]); diff != "" {
		t.Error(diff)
	}
	for i := range 2 * maxInterfaces {
		interfaces = append(interfaces, card(100+i, "52:54:00:00:01:00"))
	}
	if n := len(networkOf(interfaces, nil).GetInterfaces()); n != maxInterfaces {
		t.Errorf("%d interfaces", n)
	}
}

// message is an address as rtnetlink(7) lists it.
func message(index uint32, flags byte, attributes ...any) []byte {
	body := binary.NativeEndian.AppendUint32([]byte{unix.AF_INET, 24, flags, 0}, index)
	for i := 0; i < len(attributes); i += 2 {
		address := netip.MustParseAddr(attributes[i+1].(string)).AsSlice()
		body = binary.NativeEndian.AppendUint16(body, uint16(4+len(address)))
		body = binary.NativeEndian.AppendUint16(body, uint16(attributes[i].(int)))
		body = append(body, address...)
	}
	head := binary.NativeEndian.AppendUint32(nil, uint32(16+len(body)))
	head = binary.NativeEndian.AppendUint16(head, unix.RTM_NEWADDR)
	return append(append(head, make([]byte, 10)...), body...)
}

func TestTheKernelsListOfAddressesIsRead(t *testing.T) {
	list := slices.Concat(
		message(2, 0, unix.IFA_ADDRESS, "10.0.0.1", unix.IFA_LOCAL, "10.0.0.2"), // between two hosts
		message(2, 0, unix.IFA_ADDRESS, "2001:db8::2"),
		message(2, unix.IFA_F_TENTATIVE, unix.IFA_ADDRESS, "2001:db8::3"),
		message(2, unix.IFA_F_DADFAILED, unix.IFA_ADDRESS, "2001:db8::4"),
		message(3, unix.IFA_F_PERMANENT, unix.IFA_ADDRESS, "fe80::3"),
		message(4, 0),
	)
	got, err := addressesOf(list)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(got) != "map[2:[10.0.0.2 2001:db8::2] 3:[fe80::3]]" {
		t.Errorf("%v", got)
	}
	if _, err := addressesOf(list[:len(list)-1]); err == nil {
		t.Error("half a message was read")
	}
	live, err := readNetwork()
	if err != nil || live == nil {
		t.Errorf("%v, %v", live, err)
	}
}

package service

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// maxAddresses bounds how many addresses a status has, of the VM and of each interface, and maxInterfaces how many
// interfaces: a VM may have very many, and the host asks for those of the interfaces that it has given the VM.
const (
	maxAddresses  = 16
	maxInterfaces = 32
)

// readNetwork reads the addresses of this VM's interfaces.
func readNetwork() (*agentapi.Network, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("read the interfaces: %w", err)
	}
	list, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("read the addresses: %w", err)
	}
	byIndex, err := addressesOf(list)
	if err != nil {
		return nil, fmt.Errorf("read the addresses: %w", err)
	}
	return networkOf(interfaces, byIndex), nil
}

// addressesOf returns the addresses in a list of rtnetlink(7) by the numbers of their interfaces.
// It leaves out those that the kernel does not use, or not yet, because another host may have them.
func addressesOf(list []byte) (map[int][]netip.Addr, error) {
	messages, err := syscall.ParseNetlinkMessage(list)
	if err != nil {
		return nil, err
	}
	found := map[int][]netip.Addr{}
	for _, message := range messages {
		if message.Header.Type != unix.RTM_NEWADDR || len(message.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&message)
		if err != nil {
			return nil, err
		}
		// struct ifaddrmsg: family, length, flags, scope, index (4 bytes).
		if message.Data[2]&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
			continue
		}
		var own, peer netip.Addr
		for _, attribute := range attributes {
			switch attribute.Attr.Type {
			case unix.IFA_LOCAL:
				own, _ = netip.AddrFromSlice(attribute.Value)
			case unix.IFA_ADDRESS: // that of the other end, on a link between two
				peer, _ = netip.AddrFromSlice(attribute.Value)
			}
		}
		if address := cmp.Or(own, peer); address.IsValid() {
			index := int(binary.NativeEndian.Uint32(message.Data[4:]))
			found[index] = append(found[index], address.Unmap())
		}
	}
	return found, nil
}

// networkOf keeps the addresses that others can reach, those of IPv4 first, and those of each interface with a MAC
// address.
func networkOf(interfaces []net.Interface, byIndex map[int][]netip.Addr) *agentapi.Network {
	network := &agentapi.Network{}
	var all []netip.Addr
	for _, addresses := range byIndex {
		all = append(all, addresses...)
	}
	network.Addresses = texts(all, netip.Addr.IsGlobalUnicast)
	interfaces = slices.DeleteFunc(slices.Clone(interfaces),
		func(i net.Interface) bool { return len(i.HardwareAddr) != 6 })
	slices.SortFunc(interfaces, func(a, b net.Interface) int { return cmp.Compare(a.Index, b.Index) })
	for _, one := range interfaces[:min(len(interfaces), maxInterfaces)] {
		network.Interfaces = append(network.Interfaces, &agentapi.InterfaceAddresses{
			Mac: one.HardwareAddr.String(),
			Addresses: texts(byIndex[one.Index],
				func(a netip.Addr) bool { return a.IsGlobalUnicast() || a.IsLinkLocalUnicast() }),
		})
	}
	return network
}

// texts are the addresses of a kind in order, those that others can reach first.
func texts(all []netip.Addr, of func(netip.Addr) bool) (kept []string) {
	all = slices.DeleteFunc(slices.Clone(all), func(a netip.Addr) bool { return !of(a) })
	slices.SortFunc(all, func(a, b netip.Addr) int {
		local := func(a netip.Addr) int {
			if a.IsLinkLocalUnicast() {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(local(a), local(b)), a.Compare(b))
	})
	for _, address := range all[:min(len(all), maxAddresses)] {
		kept = append(kept, address.String())
	}
	return kept
}

package service

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// maxAddresses bounds how many addresses a status has: a VM may have very many, and the host asks whether there is one.
const maxAddresses = 16

// readNetwork reads the addresses of this VM's interfaces.
func readNetwork() (*agentapi.Network, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("read the addresses: %w", err)
	}
	return reachable(all), nil
}

// reachable keeps the addresses that others can reach, those of IPv4 first.
func reachable(all []net.Addr) *agentapi.Network {
	var found []netip.Addr
	for _, one := range all {
		prefix, err := netip.ParsePrefix(one.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() {
			found = append(found, prefix.Addr().Unmap())
		}
	}
	slices.SortFunc(found, netip.Addr.Compare)
	network := &agentapi.Network{}
	for _, address := range found[:min(len(found), maxAddresses)] {
		network.Addresses = append(network.Addresses, address.String())
	}
	return network
}

package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

const (
	// maxAddresses is how many addresses of one interface a VM has at most, in order.
	maxAddresses = 16
	// maxAnswers bounds how many interfaces, and how many addresses of each, are read of what an agent says.
	maxAnswers = 64
)

// addresses are those that an agent says for each interface of its domain, which it knows by their MAC addresses; nil if it
// does not say. An agent can say anything.
func addresses(domain hypervisor.Domain, network *agentapi.Network) map[string][]netip.Addr {
	if len(network.GetInterfaces()) == 0 && len(domain.Interfaces) > 0 {
		return nil // an agent of an earlier version, or one that cannot be right
	}
	said := map[string][]netip.Addr{}
	for _, one := range network.GetInterfaces()[:min(len(network.GetInterfaces()), maxAnswers)] {
		mac, err := net.ParseMAC(one.GetMac())
		if err != nil {
			continue
		}
		for _, text := range one.GetAddresses()[:min(len(one.GetAddresses()), maxAnswers)] {
			address, err := netip.ParseAddr(text)
			if address = address.Unmap(); err == nil && address.Zone() == "" && (address.IsGlobalUnicast() || address.IsLinkLocalUnicast()) {
				said[mac.String()] = append(said[mac.String()], address)
			}
		}
	}
	found := noAddresses(domain.Interfaces)
	for name, one := range domain.Interfaces {
		found[name] = inOrder(said[one.Address(domain.UUID, name)])
	}
	return found
}

// inOrder sorts addresses, those of IPv4 first. It leaves out link-local ones, unless there are no others.
func inOrder(all []netip.Addr) []netip.Addr {
	if slices.ContainsFunc(all, netip.Addr.IsGlobalUnicast) {
		all = slices.DeleteFunc(all, netip.Addr.IsLinkLocalUnicast)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	all = slices.Compact(all)
	return all[:min(len(all), maxAddresses)]
}

// noAddresses are those of interfaces of a VM that is off.
func noAddresses(interfaces map[string]hypervisor.Interface) map[string][]netip.Addr {
	found := make(map[string][]netip.Addr, len(interfaces))
	for name := range interfaces {
		found[name] = nil
	}
	return found
}

// readLinks sets the links in the specification of a VM that runs to those that it has. If its definition has others, which
// only somebody else can have changed, that is a fault.
func (f *Fleet) readLinks(ctx context.Context, found *VM) error {
	known := func(one hypervisor.Interface) bool { return one.User == nil }
	if !slices.ContainsFunc(slices.Collect(maps.Values(found.Spec.Interfaces)), known) {
		return nil
	}
	down, err := f.Hypervisor.LinksDown(ctx, found.Spec.Name)
	switch {
	case errors.Is(err, hypervisor.ErrNotRunning):
		return nil // it has ended meanwhile
	case err != nil:
		return fmt.Errorf("read the links of its interfaces: %w", err)
	}
	interfaces := maps.Clone(found.Spec.Interfaces)
	for _, name := range slices.Sorted(maps.Keys(interfaces)) {
		one := interfaces[name]
		if runs := slices.Contains(down, name); known(one) && runs != one.Down {
			found.Faults = append(found.Faults, Fault{"interface " + name, fmt.Sprintf("its link is %s, and in the definition of the VM it is %s; "+
				"the next apply sets both", linkName(runs), linkName(one.Down)), true})
			one.Down = runs
			interfaces[name] = one
		}
	}
	found.Spec.Interfaces = interfaces
	return nil
}

// linkName is the state of a link in words.
func linkName(down bool) string {
	if down {
		return "down"
	}
	return "up"
}

// setLinks sets the links of a running VM.
func (f *Fleet) setLinks(ctx context.Context, spec Spec, names []string, progress Progress) error {
	for _, name := range names {
		down := spec.Interfaces[name].Down
		progress(fmt.Sprintf("setting the link of interface %s %s", name, linkName(down)))
		if err := f.Hypervisor.SetLink(ctx, spec.Name, name, down); err != nil {
			return fmt.Errorf("set the link of interface %q: %w", name, err)
		}
	}
	return nil
}

// awaitLinks waits for an address of a VM one of whose links was set up, unless its agent does not answer.
func (f *Fleet) awaitLinks(ctx context.Context, spec Spec, names []string, progress Progress) error {
	if !slices.ContainsFunc(names, func(name string) bool { return !spec.Interfaces[name].Down }) {
		return nil
	}
	err := f.awaitAddress(ctx, spec.Name, progress)
	if errors.Is(err, ErrNoAnswer) {
		return nil
	}
	return err
}

package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

const (
	// maxAddresses is how many addresses of one interface a VM has at most, in order.
	maxAddresses = 16
	// interfaceLimit bounds the wait for the addresses of interfaces that were attached, unless
	// Fleet.AddressLimit does. An interface can have none by intention.
	interfaceLimit = 30 * time.Second
	// maxAnswers bounds how many interfaces, and how many addresses of each, are read of what an agent says.
	maxAnswers = 64
)

// addresses are those that an agent says for each interface of its domain, which it knows by their
// MAC addresses; nil if it does not say. An agent can say anything.
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
			if address = address.Unmap(); err == nil && address.Zone() == "" &&
				(address.IsGlobalUnicast() || address.IsLinkLocalUnicast()) {
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

// InterfaceMoves are the changes of interfaces while a VM runs, by their names, sorted.
type InterfaceMoves struct {
	Detach, Attach []string
	// Again: the card is detached, and another one is attached.
	Again []string
	// Update: the link, or the bridge or network, changes. The card stays.
	Update []string
}

// Any reports whether something changes.
func (m InterfaceMoves) Any() bool { return len(m.Detach)+len(m.Attach)+len(m.Again)+len(m.Update) > 0 }

// PlanInterfaces says how the interfaces of the VM with a UUID change while it runs, and whether a
// power-off is needed instead.
func PlanInterfaces(uuid string, have, want map[string]hypervisor.Interface) (moves InterfaceMoves, powerOff bool) {
	for _, name := range namesOf(have, want) {
		is, to := interfaceIn(have, name), interfaceIn(want, name)
		switch is.ChangeTo(to, uuid, name) {
		case hypervisor.ChangeNone:
		case hypervisor.ChangeUpdate:
			moves.Update = append(moves.Update, name)
		case hypervisor.ChangePowerOff:
			powerOff = true
		case hypervisor.ChangeAgain:
			switch {
			case is == nil:
				moves.Attach = append(moves.Attach, name)
			case to == nil:
				moves.Detach = append(moves.Detach, name)
			default:
				moves.Again = append(moves.Again, name)
			}
		}
	}
	return moves, powerOff
}

// namesOf are the names of the interfaces in any of both, sorted.
func namesOf(a, b map[string]hypervisor.Interface) []string {
	both := maps.Clone(a)
	if both == nil {
		both = map[string]hypervisor.Interface{}
	}
	maps.Copy(both, b)
	return slices.Sorted(maps.Keys(both))
}

func interfaceIn(interfaces map[string]hypervisor.Interface, name string) *hypervisor.Interface {
	if one, ok := interfaces[name]; ok {
		return &one
	}
	return nil
}

// reasons explain the moves.
func (m InterfaceMoves) reasons(have, want map[string]hypervisor.Interface) (reasons []Reason) {
	links := func(name string) bool { return have[name].Down != want[name].Down }
	networks := func(name string) bool {
		return have[name].Bridge != want[name].Bridge || have[name].Network != want[name].Network
	}
	if slices.ContainsFunc(m.Update, links) {
		reasons = append(reasons, ReasonLinks)
	}
	if slices.ContainsFunc(m.Update, networks) {
		reasons = append(reasons, ReasonNetworks)
	}
	if len(m.Attach)+len(m.Detach) > 0 {
		reasons = append(reasons, ReasonInterfacesLive)
	}
	if len(m.Again) > 0 {
		reasons = append(reasons, ReasonCards)
	}
	return reasons
}

// readInterfaces sets the interfaces in the specification of a VM that runs to those that it has. If its
// definition has others, which only somebody else can have changed, or an update that was cut off, that
// is a fault. Those on user-mode networks are on QEMU's command line alone, and stay as they are defined.
func (f *Fleet) readInterfaces(ctx context.Context, found *VM) error {
	defined := maps.Clone(found.Spec.Interfaces)
	maps.DeleteFunc(defined, func(_ string, one hypervisor.Interface) bool { return one.User != nil })
	if len(defined) == 0 {
		return nil
	}
	attached, err := f.Hypervisor.AttachedInterfaces(ctx, found.Spec.Name)
	switch {
	case errors.Is(err, hypervisor.ErrNotRunning):
		return nil // it has ended meanwhile
	case err != nil:
		return fmt.Errorf("read its interfaces: %w", err)
	}
	interfaces := maps.Clone(found.Spec.Interfaces)
	for _, name := range namesOf(defined, attached) {
		is, says := interfaceIn(attached, name), interfaceIn(defined, name)
		if says.ChangeTo(is, found.Spec.UUID, name) == hypervisor.ChangeNone {
			continue
		}
		found.Faults = append(found.Faults,
			Fault{"interface " + name, otherwise(is, says) + "; the next apply makes both as configured", true})
		if is == nil {
			delete(interfaces, name)
		} else {
			interfaces[name] = *is
		}
	}
	found.Spec.Interfaces = interfaces
	return nil
}

// otherwise says how an interface of a running VM is not as it is defined.
func otherwise(is, says *hypervisor.Interface) string {
	switch {
	case is == nil:
		return "it is not attached to the running VM, and the definition of the VM has it"
	case says == nil:
		return "it is attached to the running VM, and the definition of the VM does not have it"
	case is.Down != says.Down:
		return fmt.Sprintf("its link is %s, and in the definition of the VM it is %s",
			linkName(is.Down), linkName(says.Down))
	}
	return "it is not in the running VM as it is in the definition of the VM"
}

// linkName is the state of a link in words.
func linkName(down bool) string {
	if down {
		return "down"
	}
	return "up"
}

// updateInterfaces sets the links of interfaces of a running VM, and the bridges or networks that
// they are on. The guest need not take part.
func (f *Fleet) updateInterfaces(ctx context.Context, spec Spec, names []string, progress Progress) error {
	for _, name := range names {
		one := spec.Interfaces[name]
		progress(fmt.Sprintf("setting the network and the link of interface %s, %s", name, linkName(one.Down)))
		if err := f.Hypervisor.UpdateInterface(ctx, spec.Name, name, one); err != nil {
			return fmt.Errorf("change interface %q: %w", name, err)
		}
	}
	return nil
}

// plug attaches or detaches one interface.
type plug struct {
	name   string
	attach bool
	// reserved is how many PCIe ports have to stay free when it is attached. One that was detached
	// before gets back what it had.
	reserved int
}

func (p plug) String() string {
	if p.attach {
		return "attach interface " + p.name
	}
	return "detach interface " + p.name
}

// plugInterfaces attaches and detaches interfaces of a running VM. All that go do so first, since
// another one can get their MAC addresses and ports. If one fails, nothing is taken back: an error
// says what is done and what is not, and a later update goes on.
func (f *Fleet) plugInterfaces(ctx context.Context, spec Spec, moves InterfaceMoves, progress Progress) error {
	var steps []plug
	for _, name := range slices.Sorted(slices.Values(slices.Concat(moves.Detach, moves.Again))) {
		steps = append(steps, plug{name: name})
	}
	for _, name := range slices.Sorted(slices.Values(moves.Again)) {
		steps = append(steps, plug{name: name, attach: true})
	}
	for _, name := range slices.Sorted(slices.Values(moves.Attach)) {
		reserved := hypervisor.LayerPorts
		if len(moves.Attach) <= len(moves.Detach) {
			reserved = 0
		}
		steps = append(steps, plug{name: name, attach: true, reserved: reserved})
	}
	for _, step := range steps { // before anything is detached
		if one := spec.Interfaces[step.name]; step.attach && one.VLAN > 0 {
			if err := f.Hypervisor.CheckVLAN(ctx, one.Bridge); err != nil {
				return fmt.Errorf("attach interface %q: %w", step.name, err)
			}
		}
	}
	for i, step := range steps {
		progress(step.String())
		var err error
		if step.attach {
			err = f.Hypervisor.AttachInterface(ctx, spec.Name, step.name, spec.Interfaces[step.name], step.reserved)
		} else {
			err = f.Hypervisor.DetachInterface(ctx, spec.Name, step.name)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w\nDone: %s\nNot done: %s\nApply again to go on from there", step, err,
			listedPlugs(steps[:i]), listedPlugs(steps[i:]))
		if !step.attach {
			err = fmt.Errorf(
				"%w; if the guest does not release the card, apply with running = false first, and with running = true then", err)
		}
		return err
	}
	return nil
}

func listedPlugs(steps []plug) string {
	if len(steps) == 0 {
		return "nothing"
	}
	texts := make([]string, len(steps))
	for i, step := range steps {
		texts[i] = step.String()
	}
	return strings.Join(texts, ", ")
}

// awaitInterfaces waits until each of some interfaces whose link is up has an address. It is no
// error if one gets none, or if the agent does not answer.
func (f *Fleet) awaitInterfaces(ctx context.Context, spec Spec, names []string, progress Progress) error {
	names = slices.DeleteFunc(names, func(name string) bool { return spec.Interfaces[name].Down })
	if len(names) == 0 {
		return nil
	}
	domain, _, err := f.Hypervisor.Lookup(ctx, spec.Name)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, cmp.Or(f.AddressLimit, interfaceLimit))
	defer cancel()
	_, err = f.await(limited, spec.Name,
		"waiting for an address of "+strings.Join(names, ", "), progress, askForAddress,
		func(status *agentapi.StatusResponse) bool {
			said := addresses(domain, status.GetNetwork())
			if said == nil {
				return !unreachable(domain, status)
			}
			return !slices.ContainsFunc(names,
				func(name string) bool { return !slices.ContainsFunc(said[name], netip.Addr.IsGlobalUnicast) })
		})
	if err != nil && limited.Err() == nil && !errors.Is(err, ErrNoAnswer) {
		return err
	}
	return ctx.Err()
}

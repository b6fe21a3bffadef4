package hypervisor

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// networkAlias begins the alias of a network interface. libvirt keeps aliases that begin with "ua-".
const networkAlias = "ua-net-"

var (
	interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	// networkName is the name of a bridge or of a libvirt network.
	networkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
)

// Virtio is the model of an interface that has none of its own.
const Virtio = "virtio"

// Models are the models of a network card that an interface can have: those that fit into a PCIe
// port and into a slot of the root bus. There igb has no room for its virtual functions.
var Models = []string{Virtio, "e1000e"}

// Limits of an MTU in bytes: the least of IPv4 (RFC 791), and the most of a TAP device of Linux.
const (
	MinMTU = 68
	MaxMTU = 65521
)

// Limits of the tag of a VLAN (IEEE 802.1Q), and the most queues that a TAP device of Linux has.
const (
	MinVLAN   = 1
	MaxVLAN   = 4094
	MaxQueues = 256
)

// Interface is one network interface. Exactly one of User, Bridge and Network is set.
type Interface struct {
	User    *UserNetwork
	Bridge  string
	Network string
	// MAC is derived from the UUID and the interface's name if it is empty.
	MAC string
	// Model of the network card, one of Models. It is Virtio if it is empty.
	Model string
	// MTU in bytes; 0 is that of the network. Only Virtio can tell it to the guest.
	MTU int
	// Queues is how many pairs of queues the card has, at most MaxQueues and one for each processor
	// of the domain. 0 is one. Only Virtio on a bridge or network has more.
	Queues int
	// VLAN is the tag of the VLAN of the bridge that the interface is in; 0 is the bridge's own. See CheckVLAN.
	VLAN int
	// Down is true if the link of the card is down, as without a cable. libvirt does not know the link of a user-mode
	// network, which is always up.
	Down bool
}

// UserNetwork is QEMU's user-mode network with forwards from the host's 127.0.0.1.
type UserNetwork struct {
	// Forwards maps a TCP port on the host's 127.0.0.1 to one in the guest.
	Forwards map[uint16]uint16
}

// MAC returns the address of an interface that has none of its own. It depends on the UUID and the
// interface's name alone, and begins with QEMU's prefix 52:54:00.
func MAC(uuid, name string) string {
	sum := sha256.Sum256([]byte(uuid + "\n" + name))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

// Address returns the MAC address of an interface of a domain.
func (i Interface) Address(uuid, name string) string { return cmp.Or(i.MAC, MAC(uuid, name)) }

// Defined returns an interface as Lookup returns it: without a MAC address, a model and a number of
// queues that it has anyhow.
func (i Interface) Defined(uuid, name string) Interface {
	if i.MAC == MAC(uuid, name) {
		i.MAC = ""
	}
	if i.Model == Virtio {
		i.Model = ""
	}
	if i.Queues == 1 {
		i.Queues = 0
	}
	return i
}

// CheckMAC returns why a text cannot be the MAC address of an interface.
func CheckMAC(text string) error {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac.String() != text || mac[0]&1 != 0 || text == "00:00:00:00:00:00" {
		return fmt.Errorf("%q is not a unicast MAC address in the form 52:54:00:aa:bb:cc, lower case", text)
	}
	return nil
}

// Check returns what is wrong with an interface besides its name.
func (i Interface) Check() error {
	if err := i.checkNetwork(); err != nil {
		return err
	}
	if i.MAC != "" {
		if err := CheckMAC(i.MAC); err != nil {
			return err
		}
	}
	switch model := cmp.Or(i.Model, Virtio); {
	case !slices.Contains(Models, model):
		return fmt.Errorf("model %q: use one of %s", model, strings.Join(Models, ", "))
	case i.MTU != 0 && (i.MTU < MinMTU || i.MTU > MaxMTU):
		return fmt.Errorf("an MTU of %d bytes: use %d to %d", i.MTU, MinMTU, MaxMTU)
	case i.MTU != 0 && model != Virtio:
		return fmt.Errorf("an MTU for the model %q: only %q tells the guest", model, Virtio)
	case i.Queues < 0 || i.Queues > MaxQueues:
		return fmt.Errorf("%d queues: use 1 to %d", i.Queues, MaxQueues)
	case i.Queues > 1 && (model != Virtio || i.User != nil):
		return fmt.Errorf("%d queues: only %q on a bridge or network has more than one", i.Queues, Virtio)
	case i.VLAN != 0 && (i.VLAN < MinVLAN || i.VLAN > MaxVLAN):
		return fmt.Errorf("VLAN %d: use %d to %d", i.VLAN, MinVLAN, MaxVLAN)
	case i.VLAN != 0 && i.Bridge == "":
		return errors.New("a VLAN can be given only with a bridge")
	case i.Down && i.User != nil:
		return errors.New("the link of a user-mode network cannot be down")
	}
	return nil
}

// CheckQueues returns why an interface cannot have its queues in a domain with at most so many processors.
func (i Interface) CheckQueues(vcpus int) error {
	if i.Queues > 1 && i.Queues > vcpus {
		return fmt.Errorf("%d queues, and the VM has at most %d processors, each of which uses one", i.Queues, vcpus)
	}
	return nil
}

// Change is how an interface of a running domain becomes another one of the same name.
type Change int

// The changes of an interface, the least interruption first.
const (
	// ChangeNone: QEMU gets the same.
	ChangeNone Change = iota
	// ChangeUpdate: the card stays, and its link, or the bridge or network that it is on, changes (UpdateInterface).
	ChangeUpdate
	// ChangeAgain: the card is detached, and another one attached.
	ChangeAgain
	// ChangePowerOff: QEMU gets the interface on its command line, when it starts.
	ChangePowerOff
)

// ChangeTo returns how an interface of a running domain becomes another one. The nil pointer stands for no interface.
func (i *Interface) ChangeTo(to *Interface, uuid, name string) Change {
	if i == nil || to == nil {
		switch one := cmp.Or(i, to); {
		case one == nil:
			return ChangeNone
		case one.User != nil:
			return ChangePowerOff
		}
		return ChangeAgain
	}
	from, into := i.card(uuid, name), to.card(uuid, name)
	switch {
	case reflect.DeepEqual(from, into):
		return ChangeNone
	case from.User != nil || into.User != nil:
		return ChangePowerOff
	}
	// libvirt does not take a tag along when it moves an interface to another bridge.
	moves := from.Bridge != into.Bridge || from.Network != into.Network
	from.Down, from.Bridge, from.Network = into.Down, into.Bridge, into.Network
	if from != into || moves && into.VLAN != 0 {
		return ChangeAgain
	}
	return ChangeUpdate
}

// card is an interface as QEMU gets it.
func (i Interface) card(uuid, name string) Interface {
	i = i.Defined(uuid, name)
	if i.User != nil && len(i.User.Forwards) == 0 {
		i.User = &UserNetwork{}
	}
	return i
}

// checkAddresses returns which interfaces of a domain have the same MAC address; nil if none do.
func checkAddresses(uuid string, interfaces map[string]Interface) error {
	first := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(interfaces)) {
		mac := interfaces[name].Address(uuid, name)
		if other, twice := first[mac]; twice {
			return fmt.Errorf("interfaces %q and %q have the same MAC address %s", other, name, mac)
		}
		first[mac] = name
	}
	return nil
}

func (i Interface) checkNetwork() error {
	kinds := 0
	if i.User != nil {
		kinds++
		for host, guest := range i.User.Forwards {
			if host == 0 || guest == 0 {
				return fmt.Errorf("forward from port %d to %d: ports start at 1", host, guest)
			}
		}
	}
	for _, name := range []string{i.Bridge, i.Network} {
		if name == "" {
			continue
		}
		kinds++
		if !networkName.MatchString(name) {
			return fmt.Errorf("%q cannot name a bridge or network", name)
		}
	}
	if kinds != 1 {
		return errors.New("set exactly one of user, bridge and network")
	}
	return nil
}

// networkInterfaces describes the interfaces on bridges and networks, and those that others have added.
func networkInterfaces(d Domain) ([]libvirtxml.DomainInterface, error) {
	var described []libvirtxml.DomainInterface
	for _, name := range slices.Sorted(maps.Keys(d.Interfaces)) {
		if i := d.Interfaces[name]; i.User == nil {
			described = append(described, i.device(d.UUID, name))
		}
	}
	for _, text := range d.ForeignInterfaces {
		var one libvirtxml.DomainInterface
		if err := one.Unmarshal(text); err != nil {
			return nil, fmt.Errorf("domain %q: write an interface that somebody has added: %w", d.Name, err)
		}
		described = append(described, one)
	}
	return described, nil
}

// device describes an interface on a bridge or network.
func (i Interface) device(uuid, name string) libvirtxml.DomainInterface {
	one := libvirtxml.DomainInterface{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: i.Address(uuid, name)},
		Source: i.source(),
		Model:  &libvirtxml.DomainInterfaceModel{Type: cmp.Or(i.Model, Virtio)},
		Link:   linkOf(i.Down),
		ROM:    &libvirtxml.DomainROM{Enabled: "no"},
		Alias:  &libvirtxml.DomainAlias{Name: networkAlias + name},
	}
	if i.MTU != 0 {
		one.MTU = &libvirtxml.DomainInterfaceMTU{Size: uint(i.MTU)}
	}
	if i.Queues > 1 {
		one.Driver = &libvirtxml.DomainInterfaceDriver{Queues: uint(
			i.Queues)} // without a name it is vhost where the host has it
	}
	if i.VLAN != 0 {
		one.VLan = &libvirtxml.DomainInterfaceVLan{Tags: []libvirtxml.DomainInterfaceVLanTag{{ID: uint(i.VLAN)}}}
	}
	return one
}

// source describes the bridge or network.
func (i Interface) source() *libvirtxml.DomainInterfaceSource {
	if i.Network != "" {
		return &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: i.Network}}
	}
	return &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: i.Bridge}}
}

// linkUp and linkDown are libvirt's states of a link.
const (
	linkUp   = "up"
	linkDown = "down"
)

func linkOf(down bool) *libvirtxml.DomainInterfaceLink {
	if down {
		return &libvirtxml.DomainInterfaceLink{State: linkDown}
	}
	return &libvirtxml.DomainInterfaceLink{State: linkUp}
}

// isDown reports whether the link of an interface is down. It is up if the definition does not say.
func isDown(i libvirtxml.DomainInterface) bool { return i.Link != nil && i.Link.State == linkDown }

// nameOf returns the name of an interface that this package has described; false for others.
func nameOf(i libvirtxml.DomainInterface) (string, bool) {
	if i.Alias == nil || i.Source == nil {
		return "", false
	}
	return strings.CutPrefix(i.Alias.Name, networkAlias)
}

// interfaceOf returns the interface of a name in a definition; nil if there is none.
func interfaceOf(domain *libvirtxml.Domain, name string) *libvirtxml.DomainInterface {
	if domain.Devices == nil {
		return nil
	}
	for i, one := range domain.Devices.Interfaces {
		if has, ok := nameOf(one); ok && has == name {
			return &domain.Devices.Interfaces[i]
		}
	}
	return nil
}

// decodeInterfaces reads the interfaces of a definition, and those that others have added.
func (d *Domain) decodeInterfaces(devices *libvirtxml.DomainDeviceList) error {
	for _, i := range devices.Interfaces {
		if name, ours := nameOf(i); ours {
			d.addInterface(name, decodeInterface(i))
			continue
		}
		if i.Address != nil && i.Address.PCI != nil {
			i.Address = nil // libvirt finds one among the ports of the next definition
		}
		text, err := i.Marshal()
		if err != nil {
			return fmt.Errorf("domain %q: read an interface that somebody has added: %w", d.Name, err)
		}
		d.ForeignInterfaces = append(d.ForeignInterfaces, text)
	}
	return nil
}

func decodeInterface(i libvirtxml.DomainInterface) Interface {
	found := Interface{Down: isDown(i)}
	switch {
	case i.Source.Bridge != nil:
		found.Bridge = i.Source.Bridge.Bridge
	case i.Source.Network != nil:
		found.Network = i.Source.Network.Network
	}
	if i.MAC != nil {
		found.MAC = i.MAC.Address
	}
	if i.Model != nil {
		found.Model = i.Model.Type
	}
	if i.MTU != nil {
		found.MTU = int(i.MTU.Size)
	}
	if i.Driver != nil {
		found.Queues = int(i.Driver.Queues)
	}
	if i.VLan != nil && len(i.VLan.Tags) == 1 && i.VLan.Trunk == "" {
		found.VLAN = int(i.VLan.Tags[0].ID)
	}
	return found
}

// addInterface adds an interface of a definition.
func (d *Domain) addInterface(name string, i Interface) {
	if d.Interfaces == nil {
		d.Interfaces = map[string]Interface{}
	}
	d.Interfaces[name] = i.Defined(d.UUID, name)
}

// userNetworks are QEMU's arguments for interfaces on user-mode networks, on slots of pcie.0 from a
// first one. libvirt's own forwards need passt.
func userNetworks(d Domain, slot int) ([]string, error) {
	var args []string
	for _, name := range slices.Sorted(maps.Keys(d.Interfaces)) {
		i := d.Interfaces[name]
		if i.User == nil {
			continue
		}
		if slot > lastSlot {
			return nil, fmt.Errorf("domain %q: more than %d interfaces on user networks", d.Name, lastSlot-firstSlot)
		}
		netdev := "user,id=" + networkAlias + name
		for _, host := range slices.Sorted(maps.Keys(i.User.Forwards)) {
			netdev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", host, i.User.Forwards[host])
		}
		device := fmt.Sprintf("%[4]s,id=%[1]s-nic,netdev=%[1]s,mac=%[2]s,romfile=,bus=pcie.0,addr=0x%[3]x",
			networkAlias+name, i.Address(d.UUID, name), slot, deviceOf(i.Model))
		if i.MTU != 0 {
			device += fmt.Sprintf(",host_mtu=%d", i.MTU)
		}
		args = append(args, "-netdev", netdev, "-device", device)
		slot++
	}
	return args, nil
}

// virtioDevice is QEMU's name of the model Virtio. Those of the other models are theirs.
const virtioDevice = "virtio-net-pci"

func deviceOf(model string) string {
	if cmp.Or(model, Virtio) == Virtio {
		return virtioDevice
	}
	return model
}

// decodeUserNetworks reads what userNetworks wrote.
func (d *Domain) decodeUserNetworks(commandline *libvirtxml.DomainQEMUCommandline) {
	users := map[string]*UserNetwork{}
	for i := 0; i+1 < len(commandline.Args); i++ {
		options := strings.Split(commandline.Args[i+1].Value, ",")
		switch commandline.Args[i].Value {
		case "-netdev":
			if name, ok := option(options, "id", networkAlias); ok && options[0] == "user" {
				users[name] = &UserNetwork{Forwards: forwards(options)}
			}
		case "-device":
			name, ok := option(options, "netdev", networkAlias)
			if user := users[name]; ok && user != nil {
				found := Interface{User: user, Model: options[0]}
				if found.Model == virtioDevice {
					found.Model = Virtio
				}
				found.MAC, _ = option(options, "mac", "")
				if text, ok := option(options, "host_mtu", ""); ok {
					if mtu, err := strconv.ParseUint(text, 10, 16); err == nil {
						found.MTU = int(mtu)
					}
				}
				d.addInterface(name, found)
			}
		}
	}
}

// option returns the rest of an option's value after a prefix.
func option(options []string, key, prefix string) (string, bool) {
	for _, o := range options {
		if value, ok := strings.CutPrefix(o, key+"="+prefix); ok {
			return value, true
		}
	}
	return "", false
}

func forwards(options []string) map[uint16]uint16 {
	all := map[uint16]uint16{}
	for _, o := range options {
		if host, guest, ok := parseForward(o); ok {
			all[host] = guest
		}
	}
	return all
}

// parseForward reads one hostfwd.
func parseForward(text string) (host, guest uint16, ok bool) {
	rest, ok := strings.CutPrefix(text, "hostfwd=tcp:127.0.0.1:")
	if !ok {
		return 0, 0, false
	}
	from, to, ok := strings.Cut(rest, "-:")
	if !ok {
		return 0, 0, false
	}
	h, errHost := strconv.ParseUint(from, 10, 16)
	g, errGuest := strconv.ParseUint(to, 10, 16)
	return uint16(h), uint16(g), errHost == nil && errGuest == nil
}

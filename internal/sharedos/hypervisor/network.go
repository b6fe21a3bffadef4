package hypervisor

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net"
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

// Interface is one network interface. Exactly one of User, Bridge and Network is set.
type Interface struct {
	User    *UserNetwork
	Bridge  string
	Network string
	// MAC is derived from the UUID and the interface's name if it is empty.
	MAC string
}

// UserNetwork is QEMU's user-mode network with forwards from the host's 127.0.0.1.
type UserNetwork struct {
	// Forwards maps a TCP port on the host's 127.0.0.1 to one in the guest.
	Forwards map[uint16]uint16
}

// MAC returns the address of an interface that has none of its own. It depends on the UUID and the interface's name alone, and
// begins with QEMU's prefix 52:54:00.
func MAC(uuid, name string) string {
	sum := sha256.Sum256([]byte(uuid + "\n" + name))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", sum[0], sum[1], sum[2])
}

func (i Interface) address(uuid, name string) string {
	if i.MAC != "" {
		return i.MAC
	}
	return MAC(uuid, name)
}

func (i Interface) check() error {
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
	if i.MAC != "" {
		if mac, err := net.ParseMAC(i.MAC); err != nil || len(mac) != 6 || mac.String() != i.MAC || mac[0]&1 != 0 {
			return fmt.Errorf("%q is not a unicast MAC address in the form 52:54:00:aa:bb:cc, lower case", i.MAC)
		}
	}
	return nil
}

// networkInterfaces describes the interfaces on bridges and networks.
func networkInterfaces(d Domain) []libvirtxml.DomainInterface {
	var described []libvirtxml.DomainInterface
	for _, name := range slices.Sorted(maps.Keys(d.Interfaces)) {
		i := d.Interfaces[name]
		if i.User != nil {
			continue
		}
		source := &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: i.Bridge}}
		if i.Network != "" {
			source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: i.Network}}
		}
		described = append(described, libvirtxml.DomainInterface{
			MAC:    &libvirtxml.DomainInterfaceMAC{Address: i.address(d.UUID, name)},
			Source: source,
			Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			ROM:    &libvirtxml.DomainROM{Enabled: "no"},
			Alias:  &libvirtxml.DomainAlias{Name: networkAlias + name},
		})
	}
	return described
}

func (d *Domain) decodeInterfaces(devices *libvirtxml.DomainDeviceList) {
	for _, i := range devices.Interfaces {
		if i.Alias == nil || i.Source == nil {
			continue
		}
		name, ok := strings.CutPrefix(i.Alias.Name, networkAlias)
		if !ok {
			continue
		}
		var found Interface
		switch {
		case i.Source.Bridge != nil:
			found.Bridge = i.Source.Bridge.Bridge
		case i.Source.Network != nil:
			found.Network = i.Source.Network.Network
		}
		if i.MAC != nil {
			found.MAC = i.MAC.Address
		}
		d.addInterface(name, found)
	}
}

// addInterface adds an interface of a definition. A derived MAC address is left out.
func (d *Domain) addInterface(name string, i Interface) {
	if i.MAC == MAC(d.UUID, name) {
		i.MAC = ""
	}
	if d.Interfaces == nil {
		d.Interfaces = map[string]Interface{}
	}
	d.Interfaces[name] = i
}

// userNetworks are QEMU's arguments for interfaces on user-mode networks, on slots of pcie.0 from a first one. libvirt's own
// forwards need passt.
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
		args = append(args,
			"-netdev", netdev,
			"-device", fmt.Sprintf("virtio-net-pci,id=%[1]s-nic,netdev=%[1]s,mac=%[2]s,romfile=,bus=pcie.0,addr=0x%[3]x",
				networkAlias+name, i.address(d.UUID, name), slot))
		slot++
	}
	return args, nil
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
				mac, _ := option(options, "mac", "")
				d.addInterface(name, Interface{User: user, MAC: mac})
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

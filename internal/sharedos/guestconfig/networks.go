package guestconfig

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Network is how a guest uses one network interface of its VM.
type Network struct {
	// MAC is the address of the interface, lower case: "52:54:00:aa:bb:cc". It is empty until the
	// host has filled it in.
	MAC string `json:"mac,omitempty"`
	// DHCP4 and DHCP6 have the guest ask for addresses, AcceptRA has it listen to the routers of IPv6.
	DHCP4    bool `json:"dhcp4,omitempty"`
	DHCP6    bool `json:"dhcp6,omitempty"`
	AcceptRA bool `json:"accept_ra,omitempty"`
	// Addresses have the length of their network: "192.0.2.10/24".
	Addresses []string `json:"addresses,omitempty"`
	// Gateways are the next hops of the default routes, at most one of each family.
	Gateways []string `json:"gateways,omitempty"`
	// Metric is that of the default routes and of routes without one; nil for DefaultMetric, and
	// for what the manager gives the routes of DHCP and of routers.
	Metric *uint32 `json:"metric,omitempty"`
	Routes []Route `json:"routes,omitempty"`
	// DNS are addresses of name servers, Search the domains in which names are looked up.
	DNS    []string `json:"dns,omitempty"`
	Search []string `json:"search,omitempty"`
	// MTU in bytes; 0 leaves what the interface has.
	MTU int `json:"mtu,omitempty"`
}

// Route is a static route.
type Route struct {
	// To is a network: "10.0.0.0/8".
	To string `json:"to"`
	// Via is the next hop; "" if the network is reached without one.
	Via string `json:"via,omitempty"`
	// Metric is nil for that of the network.
	Metric *uint32 `json:"metric,omitempty"`
}

// DefaultMetric is the metric of static routes whose metric is not configured.
const DefaultMetric = 100

// Bounds of a network. MinMTU and MaxMTU are in bytes.
const (
	MinMTU       = 68
	MaxMTU       = 65535
	minMTU6      = 1280 // RFC 8200, section 5
	maxNetworks  = 32
	maxAddresses = 64
	maxRoutes    = 256
	maxDNS       = 16
	maxSearch    = 32
)

// Manager is the program that manages the network of a guest: the name of its systemd service without suffix.
type Manager string

// The managers that a document can be written for. NoManager is any other.
const (
	NoManager      Manager = ""
	Networkd       Manager = "systemd-networkd"
	NetworkManager Manager = "NetworkManager"
)

// Managers are all managers that a document can be written for, with the program by which a base is
// known to have them. A base with both uses NetworkManager.
var Managers = []struct {
	Manager Manager
	Program string
}{{NetworkManager, "usr/sbin/NetworkManager"}, {Networkd, "usr/lib/systemd/systemd-networkd"}}

// Service is the manager's systemd service.
func (m Manager) Service() string { return string(m) + ".service" }

// networkFiles are where managers read the files of networks, below /etc and below /run, and the
// names of those of this package.
var networkFiles = map[Manager]struct{ directory, prefix, suffix string }{
	// It comes before what netplan writes for networkd, which is 10-netplan-.
	Networkd:       {"systemd/network/", "05-sharedos-", ".network"},
	NetworkManager: {"NetworkManager/system-connections/", "sharedos-", ".nmconnection"},
}

// NetworkFile is the file of a network below /etc.
func (m Manager) NetworkFile(name string) string {
	f := networkFiles[m]
	return "/etc/" + f.directory + f.prefix + name + f.suffix
}

// BootNetworkFile is the file of a network that lasts until the next boot. One below /etc of the
// same name counts instead.
func (m Manager) BootNetworkFile(name string) string {
	return "/run/" + strings.TrimPrefix(m.NetworkFile(name), "/etc/")
}

// BootNetworkFiles is a pattern (path.Match) of all files that BootNetworkFile names.
func (m Manager) BootNetworkFiles() string { return m.BootNetworkFile("*") }

var (
	networkName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
	macAddress  = regexp.MustCompile(`^[0-9a-f]{2}(:[0-9a-f]{2}){5}$`)
	domainLabel = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?$`)
)

// CheckNetworkName checks the name of an interface of a VM.
func CheckNetworkName(name string) error {
	if !networkName.MatchString(name) {
		return errors.New(
			"the name of an interface has 1 to 32 letters, digits, _ and -, and starts with a letter or digit")
	}
	return nil
}

// unicast parses an address that one host can have.
func unicast(text string) (netip.Addr, error) {
	address, err := netip.ParseAddr(text)
	switch {
	case err != nil || address.Zone() != "" || address.Is4In6():
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	case address.IsUnspecified() || address.IsLoopback() || address.IsMulticast() ||
		address == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, fmt.Errorf("%s cannot be the address of a host in a network", text)
	}
	return address, nil
}

// hostPrefix parses the address of a host with the length of its network.
func hostPrefix(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		return prefix, fmt.Errorf("%q is not an address with the length of its network, such as 192.0.2.10/24", text)
	}
	if _, err := unicast(prefix.Addr().String()); err != nil {
		return prefix, err
	}
	switch {
	case prefix.Bits() == 0:
		return prefix, fmt.Errorf("the network of %s has the length 0", text)
	case prefix.Addr().Is6() || prefix.Bits() > 30:
		return prefix, nil
	case prefix.Masked().Addr() == prefix.Addr():
		return prefix, fmt.Errorf("%s is the address of the network itself", text)
	case broadcast(prefix) == prefix.Addr():
		return prefix, fmt.Errorf("%s is the broadcast address of its network", text)
	}
	return prefix, nil
}

// broadcast is the last address of a network of IPv4.
func broadcast(prefix netip.Prefix) netip.Addr {
	bytes := prefix.Addr().As4()
	for i := prefix.Bits(); i < 32; i++ {
		bytes[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(bytes)
}

// destination parses the destination of a route.
func destination(text string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(text)
	switch {
	case err != nil || prefix.Addr().Is4In6():
		return prefix, fmt.Errorf("%q is not a network, such as 10.0.0.0/8 or ::/0", text)
	case prefix.Masked() != prefix:
		return prefix, fmt.Errorf("%s has bits beyond its length: the network is %s", text, prefix.Masked())
	case prefix.Addr().IsMulticast():
		return prefix, fmt.Errorf("%s is multicast", text)
	}
	return prefix, nil
}

// CanonicalAddress is the one form of an address or a network: "2001:db8::1" of "2001:DB8:0::1".
// Any other text stays as it is.
func CanonicalAddress(text string) string {
	if address, err := netip.ParseAddr(text); err == nil {
		return address.String()
	}
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.String()
	}
	return text
}

// link is what a network says about the addresses that are reached without a gateway.
type link struct {
	dhcp4, dhcp6 bool
	own          []netip.Addr
	on           []netip.Prefix
}

// checkHop checks that the next hop of a route can be reached without a gateway. What DHCP and
// routers bring is not known.
func (l link) checkHop(hop netip.Addr) error {
	switch {
	case slices.Contains(l.own, hop):
		return fmt.Errorf("%s is the address of the interface itself", hop)
	case hop.Is4() && l.dhcp4, hop.Is6() && (l.dhcp6 || hop.IsLinkLocalUnicast()):
		return nil
	case !slices.ContainsFunc(l.on, func(on netip.Prefix) bool { return on.Contains(hop) }):
		return fmt.Errorf(
			"%s is in no network of the interface: neither in that of one of its addresses nor in a route without via",
			hop)
	}
	return nil
}

// usedRoute is a route of the whole guest: no two of them have the same destination and metric.
type usedRoute struct {
	to     netip.Prefix
	metric uint32
}

// networks checks the networks.
func (c *checker) networks(d *Document) {
	if len(d.Networks) > maxNetworks {
		c.check(fmt.Errorf("it has %d entries, and %d are allowed", len(d.Networks), maxNetworks), "networks")
	}
	macs, addresses, routes := map[string]string{}, map[netip.Addr]string{}, map[usedRoute]string{}
	for _, name := range slices.Sorted(maps.Keys(d.Networks)) {
		n := d.Networks[name]
		at := func(attribute ...string) []string { return append([]string{"networks", name}, attribute...) }
		c.check(CheckNetworkName(name), at()...)
		if n.MAC != "" && !macAddress.MatchString(n.MAC) {
			c.check(fmt.Errorf("%q is not a MAC address in lower case", n.MAC), at()...)
		}
		if other, twice := macs[n.MAC]; twice && n.MAC != "" {
			c.check(fmt.Errorf("the network %q has the same MAC address", other), at()...)
		}
		macs[n.MAC] = name
		c.network(n, at, addresses, func(to netip.Prefix, metric *uint32, at []string) {
			used := usedRoute{to, *cmp.Or(metric, n.Metric, new(uint32(DefaultMetric)))}
			if other, twice := routes[used]; twice {
				c.check(
					fmt.Errorf(
						"the network %q has a route to %s with the metric %d, too: set another metric for one of them",
						other, to, used.metric), at...)
				return
			}
			routes[used] = name
		})
	}
}

// network checks one network. addresses are those of the networks before it.
func (c *checker) network(n Network, at func(...string) []string, addresses map[netip.Addr]string,
	route func(netip.Prefix, *uint32, []string)) {
	name := at()[1]
	for _, list := range []struct {
		attribute     string
		length, limit int
	}{
		{"addresses", len(n.Addresses), maxAddresses}, {"gateways", len(n.Gateways), 2},
		{"routes", len(n.Routes), maxRoutes},
		{"dns", len(n.DNS), maxDNS}, {"search", len(n.Search), maxSearch},
	} {
		if list.length > list.limit {
			c.check(fmt.Errorf("it has %d entries, and %d are allowed", list.length, list.limit), at(list.attribute)...)
		}
	}
	on := link{dhcp4: n.DHCP4, dhcp6: n.DHCP6 || n.AcceptRA}
	six := n.DHCP6
	for _, text := range n.Addresses {
		prefix, err := hostPrefix(text)
		if err != nil {
			c.check(err, at("addresses")...)
			continue
		}
		six = six || prefix.Addr().Is6()
		if other, twice := addresses[prefix.Addr()]; twice && (other == name || !prefix.Addr().IsLinkLocalUnicast()) {
			c.check(fmt.Errorf("the network %q has the address %s, too", other, prefix.Addr()), at("addresses")...)
		}
		addresses[prefix.Addr()] = name
		on.own, on.on = append(on.own, prefix.Addr()), append(on.on, prefix.Masked())
	}
	for _, r := range n.Routes {
		if to, err := destination(r.To); err == nil && r.Via == "" {
			on.on = append(on.on, to)
		}
	}
	if !n.DHCP4 && !slices.ContainsFunc(on.own, netip.Addr.Is4) {
		for _, list := range []struct {
			attribute string
			all       []string
		}{{"gateways", n.Gateways}, {"routes", destinations(n.Routes)}, {"dns", n.DNS}} {
			if slices.ContainsFunc(list.all, func(text string) bool { return !isIPv6(text) }) {
				c.check(errors.New("it has IPv4, and the interface gets no IPv4 address: set addresses or dhcp4"),
					at(list.attribute)...)
				return
			}
		}
	}
	any6 := six || n.AcceptRA
	if !any6 && slices.ContainsFunc(n.DNS, isIPv6) {
		c.check(errors.New("it has IPv6, and the interface gets no IPv6 address: set addresses, dhcp6 or accept_ra"),
			at("dns")...)
	}
	if !any6 && !n.DHCP4 && len(n.Addresses) == 0 && len(n.Search) > 0 {
		c.check(errors.New("the interface gets no address: set addresses, dhcp4, dhcp6 or accept_ra"), at("search")...)
	}
	families := map[bool]bool{}
	for _, text := range n.Gateways {
		hop, err := unicast(text)
		if err == nil {
			err = on.checkHop(hop)
		}
		if err == nil && families[hop.Is4()] {
			err = errors.New("it has two gateways of one family: use routes with different metrics")
		}
		c.check(err, at("gateways")...)
		if err == nil {
			families[hop.Is4()] = true
			route(everything(hop), nil, at("gateways"))
		}
	}
	for _, r := range n.Routes {
		c.route(r, on, at("routes"), route)
	}
	if n.Metric != nil && *n.Metric == 0 {
		c.check(errors.New("it must be at least 1"), at("metric")...)
	}
	for _, text := range n.DNS {
		_, err := unicast(text)
		c.check(err, at("dns")...)
	}
	for _, domain := range n.Search {
		c.check(checkDomain(domain), at("search")...)
	}
	switch {
	case n.MTU != 0 && (n.MTU < MinMTU || n.MTU > MaxMTU):
		c.check(fmt.Errorf("it must be between %d and %d", MinMTU, MaxMTU), at("mtu")...)
	case n.MTU != 0 && n.MTU < minMTU6 && six:
		c.check(fmt.Errorf("IPv6 needs %d or more", minMTU6), at("mtu")...)
	}
}

func (c *checker) route(r Route, on link, at []string, route func(netip.Prefix, *uint32, []string)) {
	to, err := destination(r.To)
	if err == nil && r.Via != "" {
		var hop netip.Addr
		if hop, err = unicast(r.Via); err == nil && hop.Is4() != to.Addr().Is4() {
			err = fmt.Errorf("%s and %s are of different families", r.To, r.Via)
		}
		if err == nil {
			err = on.checkHop(hop)
		}
	}
	if err == nil && r.Metric != nil && *r.Metric == 0 {
		err = fmt.Errorf("the metric of the route to %s must be at least 1", r.To)
	}
	c.check(err, at...)
	if err == nil {
		route(to, r.Metric, at)
	}
}

// destinations are those of routes.
func destinations(routes []Route) (all []string) {
	for _, r := range routes {
		all = append(all, r.To)
	}
	return all
}

// everything is the destination of a default route by a gateway.
func everything(gateway netip.Addr) netip.Prefix {
	if gateway.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// checkDomain checks a domain in which names are looked up (resolv.conf(5)).
func checkDomain(domain string) error {
	labels := strings.Split(domain, ".")
	if len(domain) > 253 ||
		slices.ContainsFunc(labels, func(label string) bool { return !domainLabel.MatchString(label) }) {
		return fmt.Errorf("%q is not a domain, such as example.org", domain)
	}
	return nil
}

// NetworkItems are the files of the networks for one manager, and nothing without one.
func (d *Document) NetworkItems(manager Manager) (items []Item) {
	for _, name := range slices.Sorted(maps.Keys(d.Networks)) {
		n := d.Networks[name]
		item := Item{Path: manager.NetworkFile(name), At: []string{"networks", name}, Owner: "root",
			Group: "root", Network: name}
		switch manager {
		case Networkd: // systemd-networkd reads it as an account of its own
			item.Content, item.Mode = []byte(n.networkd()), 0o644
		case NetworkManager: // which ignores files that others can read
			item.Content, item.Mode = []byte(n.keyfile(name)), 0o600
		default:
			continue
		}
		items = append(items, item)
	}
	return items
}

// staticRoutes are the default routes of the gateways and the routes, with their metrics.
func (n Network) staticRoutes() (all []Route) {
	metric := cmp.Or(n.Metric, new(uint32(DefaultMetric)))
	for _, gateway := range n.Gateways {
		to := "0.0.0.0/0"
		if isIPv6(gateway) {
			to = "::/0"
		}
		all = append(all, Route{To: to, Via: gateway, Metric: metric})
	}
	for _, r := range n.Routes {
		r.Metric = cmp.Or(r.Metric, metric)
		all = append(all, r)
	}
	return all
}

func isIPv6(text string) bool { return strings.Contains(text, ":") }

// yes is a boolean of systemd and of NetworkManager.
func yes(is bool) string {
	if is {
		return "yes"
	}
	return "no"
}

// networkd is the file for systemd-networkd (systemd.network(5)).
func (n Network) networkd() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	// What is made on top of the interface, such as a VLAN, has the same address, and has a kind.
	line("[Match]\nMACAddress=%s\nType=ether\nKind=!*", n.MAC)
	if n.MTU != 0 {
		line("\n[Link]\nMTUBytes=%d", n.MTU)
	}
	dhcp := map[[2]bool]string{{true, true}: "yes", {true, false}: "ipv4", {false, true}: "ipv6",
		{false, false}: "no"}[[2]bool{n.DHCP4, n.DHCP6}]
	line("\n[Network]\nDHCP=%s\nIPv6AcceptRA=%s", dhcp, yes(n.AcceptRA))
	for _, address := range n.Addresses {
		line("Address=%s", address)
	}
	for _, server := range n.DNS {
		line("DNS=%s", server)
	}
	if len(n.Search) > 0 {
		line("Domains=%s", strings.Join(n.Search, " "))
	}
	if n.DHCP4 && n.Metric != nil {
		line("\n[DHCPv4]\nRouteMetric=%d", *n.Metric)
	}
	if n.DHCP6 { // also if no router says that there is a server
		line("\n[DHCPv6]\nWithoutRA=solicit")
	}
	if n.AcceptRA {
		line("\n[IPv6AcceptRA]\nDHCPv6Client=%s", yes(n.DHCP6))
		if n.Metric != nil {
			line("RouteMetric=%d", *n.Metric)
		}
	}
	for _, r := range n.staticRoutes() {
		line("\n[Route]\nDestination=%s", r.To)
		if r.Via != "" {
			line("Gateway=%s", r.Via)
		}
		line("Metric=%d", *r.Metric)
	}
	return b.String()
}

// keyfile is the file for NetworkManager (nm-settings-keyfile(5)).
func (n Network) keyfile(name string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[connection]\nid=sharedos-%s\nuuid=%s\ntype=ethernet\nautoconnect=true\nautoconnect-priority=999",
		name, n.ConnectionUUID(name))
	line("\n[ethernet]\nmac-address=%s", strings.ToUpper(n.MAC))
	if n.MTU != 0 {
		line("mtu=%d", n.MTU)
	}
	for _, six := range []bool{false, true} {
		family := map[bool]string{false: "ipv4", true: "ipv6"}[six]
		of := func(all []string) (some []string) {
			for _, text := range all {
				if isIPv6(text) == six {
					some = append(some, text)
				}
			}
			return some
		}
		addresses := of(n.Addresses)
		method := "disabled"
		switch {
		case !six && n.DHCP4, six && n.AcceptRA: // routers say whether there is a server for DHCPv6
			method = "auto"
		case six && n.DHCP6:
			method = "dhcp"
		case len(addresses) > 0:
			method = "manual"
		case six:
			method = "link-local"
		}
		line("\n[%s]\nmethod=%s", family, method)
		for i, address := range addresses {
			line("address%d=%s", i+1, address)
		}
		i := 0
		for _, r := range n.staticRoutes() {
			if isIPv6(r.To) == six {
				i++
				line("route%d=%s,%s,%d", i, r.To,
					cmp.Or(r.Via, map[bool]string{false: "0.0.0.0", true: "::"}[six]), *r.Metric)
			}
		}
		if n.Metric != nil {
			line("route-metric=%d", *n.Metric)
		}
		if method == "disabled" || method == "link-local" {
			continue // NetworkManager refuses a profile that has name servers or domains then (nm-setting-ip6-config.c)
		}
		if servers := of(n.DNS); len(servers) > 0 {
			line("dns=%s;", strings.Join(servers, ";"))
		}
		if len(n.Search) > 0 {
			line("dns-search=%s;", strings.Join(n.Search, ";"))
		}
	}
	return b.String()
}

// ConnectionUUID is the UUID of the network's connection in NetworkManager: a UUID of version 8
// (RFC 9562) that follows from the MAC address and the name.
func (n Network) ConnectionUUID(name string) string {
	sum := sha256.Sum256([]byte("sharedos network " + n.MAC + " " + name))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

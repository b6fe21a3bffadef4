package impact

import (
	"slices"
	"strings"
)

// NetworkManager is a program that brings the network to what its configuration says when it is started.
type NetworkManager int

// The kinds of network managers.
const (
	// NoManager: the unit does not manage the network.
	NoManager NetworkManager = iota
	// MarkingManager gives what it adds another protocol than that of ip(8), RTPROT_BOOT.
	MarkingManager
	// PlainManager runs ip(8) or the like.
	PlainManager
)

// networkManagers are the units of network managers. One whose name ends in "@" stands for all instances.
var networkManagers = map[string]NetworkManager{
	"systemd-networkd": MarkingManager, "NetworkManager": MarkingManager,
	"networking": PlainManager, "network": PlainManager, "ifup@": PlainManager,
	"connman": PlainManager, "dhcpcd": PlainManager,
	"dhcpcd@": PlainManager, "wickedd-nanny": PlainManager, "wicked": PlainManager, "cloud-init-network": PlainManager,
}

// firewalls are the units that replace the rules of the packet filter when they are restarted or reloaded.
var firewalls = []string{
	"nftables", "netfilter-persistent", "iptables", "ip6tables", "ebtables", "ipset", "ufw", "firewalld",
	"shorewall", "shorewall6", "ferm",
}

// containerManagers are the units that may stop containers when they are stopped.
var containerManagers = []string{"docker", "lxc", "lxd", "snap.lxd.daemon", "incus"}

// ManagesNetwork says which network manager a unit is.
func ManagesNetwork(unit string) NetworkManager {
	name, service := strings.CutSuffix(unit, ".service")
	if !service {
		return NoManager
	}
	if at := strings.IndexByte(name, '@'); at >= 0 {
		name = name[:at+1]
	}
	return networkManagers[name]
}

// networkConfiguration are the directories and files that network managers read.
var networkConfiguration = []string{
	"etc/systemd/network/", "usr/lib/systemd/network/", "etc/systemd/networkd.conf", "etc/systemd/networkd.conf.d/",
	"usr/lib/systemd/networkd.conf.d/", "etc/network/", "etc/NetworkManager/", "usr/lib/NetworkManager/",
	"etc/netplan/", "usr/lib/netplan/",
	"etc/dhcpcd.conf", "etc/connman/", "etc/sysconfig/network", "etc/sysconfig/network-scripts/",
}

// Network reports whether the release changes the configuration of the network. If it does not, what a network manager
// does not bring back when it is started again was never its own.
func (c *Changes) Network() bool {
	return slices.ContainsFunc(c.paths(), func(name string) bool {
		return slices.ContainsFunc(networkConfiguration, func(place string) bool {
			return name == place || strings.HasSuffix(place, "/") && strings.HasPrefix(name, place)
		})
	})
}

// sideEffect says what else a restart or a reload of a unit does, "" if nothing is known.
func sideEffect(unit string, outcome Outcome, changes *Changes) string {
	manager := ManagesNetwork(unit)
	switch {
	case outcome.Keeps():
		return ""
	case slices.Contains(firewalls, strings.TrimSuffix(unit, ".service")):
		return "; that replaces the rules of the packet filter: those that were added by hand, or by programs such " +
			"as container managers, go, and are not added again"
	case outcome.Interrupts() && slices.Contains(containerManagers, strings.TrimSuffix(unit, ".service")):
		return "; that may stop its containers, depending on its settings (live-restore)"
	case !outcome.Interrupts() || manager == NoManager:
		return ""
	case outcome.Stops():
		return "; what was added by hand to the addresses, routes and rules of the network is added again if that drops it"
	case !changes.Network():
		return "; its restart drops addresses, routes, rules and neighbours that were added by hand, for a moment: they are added again"
	case manager == MarkingManager:
		return "; its restart drops addresses, routes, rules and neighbours that were added by hand. The release " +
			"changes the configuration of the network, so that only routes and rules without a protocol of their own " +
			"are added again"
	}
	return "; its restart drops addresses, routes, rules and neighbours that were added by hand. The release changes " +
		"the configuration of the network, so that they are not added again"
}

// Package network keeps what was added by hand to the network of a VM over the restart of its network manager.
//
// systemd-networkd, NetworkManager and ifupdown bring the network to what their configuration says when they start.
// That drops what others have added: addresses, routes, rules, neighbours and nexthops (ip-address(8), ip-route(8) and
// so on). Read reads them all from the kernel, and Restore adds those again that are missing (rtnetlink(7)).
//
// It never replaces or removes anything. What a manager gets from elsewhere and for a limited time, as by DHCP or
// router advertisements, is left to the manager.
package network

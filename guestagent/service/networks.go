package service

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// serviceControl is what networks asks of systemd.
type serviceControl interface {
	ActiveState(ctx context.Context, name string) (string, error)
	ReloadUnit(ctx context.Context, name string) error
	Start(ctx context.Context, name string) (took time.Duration, skipped bool, err error)
}

// networks implements configure.Networks.
type networks struct {
	units serviceControl
	root  string
	// run runs a command, and addresses are those of the interface with a MAC address.
	run       func(ctx context.Context, argv ...string) (string, error)
	addresses func(mac string) (addresses []netip.Prefix, ready bool, err error)
}

var _ configure.Networks = networks{}

// liveNetworks are the networks of this system.
func liveNetworks(manager *units.Manager) networks {
	return networks{units: manager, root: "/", run: units.Run, addresses: addressesOfInterface}
}

// Manager implements configure.Networks.
func (n networks) Manager() (manager guestconfig.Manager, instead string) {
	return boot.NetworkManagerOf(n.root)
}

// Addresses implements configure.Networks.
func (n networks) Addresses(mac string) (addresses []netip.Prefix, ready bool, err error) {
	return n.addresses(mac)
}

// Renew implements configure.Networks. A reload of systemd-networkd brings only those interfaces to
// their files whose files differ (networkctl(1)). NetworkManager activates what it is told to.
func (n networks) Renew(ctx context.Context, manager guestconfig.Manager,
	changed map[string]guestconfig.Network) error {
	service := manager.Service()
	state, err := n.units.ActiveState(ctx, service)
	if err != nil {
		return err
	}
	running := state == "active" || state == "reloading"
	if !running { // when it starts, it reads the files anyhow
		if _, _, err := n.units.Start(ctx, service); err != nil {
			return err
		}
	}
	if manager == guestconfig.Networkd {
		if !running {
			return nil
		}
		return n.units.ReloadUnit(ctx, service)
	}
	if _, err := n.run(ctx, "nmcli", "connection", "reload"); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		if _, ready, err := n.addresses(changed[name].MAC); err != nil || !ready {
			if err != nil {
				return err
			}
			continue // it is activated when the link comes up
		}
		// It is not waited for: a network without a server of DHCP is no fault of the
		// configuration, and static addresses are looked for afterwards.
		if _, err := n.run(ctx, "nmcli", "--wait", "0", "connection", "up", "uuid",
			changed[name].ConnectionUUID(name)); err != nil {
			return fmt.Errorf("activate %s: %w", name, err)
		}
	}
	return nil
}

// addressesOfInterface returns the addresses of the interface with a MAC address. It is ready
// unless its link is down: one that is not up yet is brought up by its manager.
func addressesOfInterface(mac string) (addresses []netip.Prefix, ready bool, err error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, false, fmt.Errorf("read the interfaces: %w", err)
	}
	for _, one := range interfaces {
		if one.HardwareAddr.String() != mac {
			continue
		}
		list, err := one.Addrs()
		if err != nil {
			return nil, false, fmt.Errorf("read the addresses of %s: %w", one.Name, err)
		}
		for _, address := range list {
			prefix, err := netip.ParsePrefix(address.String())
			if err != nil {
				return nil, false, fmt.Errorf("read the addresses of %s: %w", one.Name, err)
			}
			addresses = append(addresses, prefix)
		}
		up, linked := one.Flags&net.FlagUp != 0, one.Flags&net.FlagRunning != 0
		if !up || linked {
			return addresses, true, nil
		}
	}
	return addresses, false, nil
}

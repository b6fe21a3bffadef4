package configure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// Networks is what manages the network of a system.
type Networks interface {
	// Manager returns the manager whose files the system reads. If that is none that a document can
	// be written for, instead says what configures the network, "" if nothing does.
	Manager() (manager guestconfig.Manager, instead string)
	// Renew has a manager read its files again. changed are the networks whose interfaces take on
	// what their files say, by name. Other interfaces keep what they have.
	Renew(ctx context.Context, manager guestconfig.Manager, changed map[string]guestconfig.Network) error
	// Addresses returns the addresses of the interface with a MAC address. ready is false if there
	// is no such interface, or if its link is down: it gets no addresses then.
	Addresses(mac string) (addresses []netip.Prefix, ready bool, err error)
}

// networkChange is what an application does to the network.
type networkChange struct {
	manager guestconfig.Manager
	// changed are the networks that are written, by name, gone the names of those that are removed.
	changed map[string]guestconfig.Network
	gone    []string
	// interrupts are the interfaces that get another configuration than their manager has read at boot.
	interrupts []string
}

func (n *networkChange) any() bool { return len(n.changed)+len(n.gone) > 0 }

// planManager finds out for which manager the files of networks are. why says why there is none that they can be for.
func (c *Configurator) planManager(p *plan, record *Record) (why string, err error) {
	before, err := record.document()
	if err != nil || len(p.document.Networks)+len(before.Networks) == 0 {
		return "", err
	}
	manager, instead := c.Networks.Manager()
	p.network.manager = manager
	if manager != guestconfig.NoManager || len(p.document.Networks) == 0 {
		return "", nil
	}
	if instead != "" {
		return fmt.Sprintf(
			"networks: the network of the guest is configured by %s, and not by systemd-networkd or NetworkManager",
			instead), nil
	}
	return "networks: the guest has neither systemd-networkd nor NetworkManager", nil
}

// planNetworks finds the networks whose files change.
func (c *Configurator) planNetworks(record *Record, p *plan) error {
	p.network.changed = map[string]guestconfig.Network{}
	for _, w := range p.writes {
		name := w.item.Network
		if name == "" {
			continue
		}
		p.network.changed[name] = p.document.Networks[name]
		given, err := fileio.Read(filepath.Join(c.Root, p.network.manager.BootNetworkFile(name)), maxFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil || w.now != nil || string(given) != string(w.item.Content) {
			p.network.interrupts = append(p.network.interrupts, name)
		}
	}
	before, err := record.document()
	if err != nil {
		return err
	}
	for _, s := range p.removals {
		for name := range before.Networks {
			if s.Path == p.network.manager.NetworkFile(name) {
				p.network.gone = append(p.network.gone, name)
				p.network.interrupts = append(p.network.interrupts, name)
			}
		}
	}
	slices.Sort(p.network.interrupts)
	return nil
}

// impactOfNetwork adds the interfaces to what is interrupted.
func (p *plan) impactOfNetwork(message *agentapi.Impact) {
	if len(p.network.interrupts) == 0 {
		return
	}
	message.Level = max(message.GetLevel(), agentapi.Level_RELOAD)
	message.Units = append(message.Units, &agentapi.UnitImpact{
		Unit: p.network.manager.Service(), Level: agentapi.Level_RELOAD,
		Reason: "the configuration of " + strings.Join(p.network.interrupts, ", ") +
			" changes: connections over these interfaces may end, " +
			"and what was added to them by hand goes; other interfaces keep theirs",
	})
}

// renewNetwork has the network manager take on the files that were written, and waits until the
// interfaces have their addresses.
func (a *application) renewNetwork(ctx context.Context) error {
	n := a.plan.network
	if !n.any() {
		return nil
	}
	if err := a.Networks.Renew(ctx, n.manager, n.changed); err != nil {
		return fmt.Errorf("networks: %w", err)
	}
	if len(n.interrupts) > 0 {
		a.restarts = append(a.restarts, &agentapi.UnitRestart{Unit: n.manager.Service(), Level: agentapi.Level_RELOAD})
	}
	end := time.Now().Add(cmp.Or(a.ReadyLimit, readyLimit))
	for {
		lacks, err := a.lackingAddress(n.changed)
		if err != nil || lacks == nil {
			return err
		}
		if time.Now().After(end) {
			return lacks
		}
		select {
		case <-ctx.Done():
			return errors.Join(lacks, ctx.Err())
		case <-time.After(readyPause):
		}
	}
}

// lackingAddress returns an error that names an address which an interface does not have; nil if all have theirs.
func (a *application) lackingAddress(networks map[string]guestconfig.Network) (lacks, err error) {
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		n := networks[name]
		is, ready, err := a.Networks.Addresses(n.MAC)
		if err != nil {
			return nil, fmt.Errorf("networks: %s: read its addresses: %w", name, err)
		}
		for _, want := range n.Addresses {
			if !ready || slices.ContainsFunc(is,
				func(one netip.Prefix) bool { return one.String() == guestconfig.CanonicalAddress(want) }) {
				continue
			}
			return fmt.Errorf("networks: %s: %s has not given the interface the address %s", name,
				a.plan.network.manager, want), nil
		}
	}
	return nil, nil
}

// takeNetworkBack has the network manager take on the files of before.
func (c *Configurator) takeNetworkBack(ctx context.Context, open *attempt, record *Record) error {
	if open.Manager == guestconfig.NoManager {
		return nil
	}
	before, err := record.document()
	if err != nil {
		return err
	}
	changed := maps.Clone(before.Networks)
	maps.DeleteFunc(changed,
		func(name string, _ guestconfig.Network) bool { return !slices.Contains(open.Networks, name) })
	if err := c.Networks.Renew(ctx, open.Manager, changed); err != nil {
		return fmt.Errorf("networks: %w", err)
	}
	return nil
}

// forgetBootNetworks removes the files of networks that this boot began with, if the guest has
// never been configured before: from now on those below /etc count.
func (a *application) forgetBootNetworks(ctx context.Context) error {
	for _, one := range guestconfig.Managers {
		files, err := filepath.Glob(filepath.Join(a.Root, one.Manager.BootNetworkFiles()))
		if err != nil {
			return err
		}
		stale := false
		for _, file := range files {
			if err := os.Remove(file); err != nil {
				return fmt.Errorf("networks: %w", err)
			}
			below := func(name string) bool {
				return one.Manager == a.plan.network.manager &&
					filepath.Base(one.Manager.NetworkFile(name)) == filepath.Base(file)
			}
			stale = stale || !slices.ContainsFunc(slices.Collect(maps.Keys(a.plan.document.Networks)), below)
		}
		if manager, _ := a.Networks.Manager(); stale && manager == one.Manager {
			if err := a.Networks.Renew(ctx, manager, nil); err != nil {
				return fmt.Errorf("networks: %w", err)
			}
		}
	}
	return nil
}

// Configured reports whether the system with a state directory has ever taken a configuration on.
func Configured(stateDirectory string) (bool, error) {
	_, err := os.Stat(records{filepath.Join(stateDirectory, Directory)}.path(recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

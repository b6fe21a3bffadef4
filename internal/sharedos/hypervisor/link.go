package hypervisor

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"
)

// linkDownFor is how long the link of an interface that moves to another network is down, so that the guest sees it.
const linkDownFor = time.Second

// linkBackLimit bounds how long it may take to undo a move to another network that failed.
const linkBackLimit = 10 * time.Second

// AttachInterface implements Hypervisor.
func (h *Libvirt) AttachInterface(ctx context.Context, name, iface string, device Interface, reserved int) error {
	what := fmt.Sprintf("attach interface %q to domain %q", iface, name)
	if err := errors.Join(CheckInterfaceName(iface), device.Check()); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if device.User != nil {
		return fmt.Errorf("%s: %w", what, ErrNoInterface)
	}
	if err := h.checkVLANs(ctx, map[string]Interface{iface: device}); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.attach(ctx, what, name, networkAlias+iface, reserved, func(definition *libvirtxml.Domain) error {
		found := Domain{UUID: definition.UUID}
		if definition.Devices == nil {
			return errors.New("its definition has no devices")
		}
		if err := errors.Join(found.decodeInterfaces(definition.Devices), found.decodeCompute(definition)); err != nil {
			return err
		}
		interfaces := maps.Clone(found.Interfaces)
		if interfaces == nil {
			interfaces = map[string]Interface{}
		}
		interfaces[iface] = device
		return errors.Join(checkAddresses(found.UUID, interfaces), device.CheckQueues(max(found.VCPUs, found.MaxVCPUs)))
	}, func(definitions []*libvirtxml.Domain) (string, error) {
		one := device.device(definitions[0].UUID, iface)
		return one.Marshal()
	})
}

// DetachInterface implements Hypervisor.
func (h *Libvirt) DetachInterface(ctx context.Context, name, iface string) error {
	return h.detach(ctx, fmt.Sprintf("detach interface %q from domain %q", iface, name), name, networkAlias+iface)
}

// AttachedInterfaces implements Hypervisor.
func (h *Libvirt) AttachedInterfaces(ctx context.Context, name string) (attached map[string]Interface, err error) {
	err = h.call(ctx, fmt.Sprintf("read the interfaces of domain %q", name), func(l *libvirt.Libvirt) error {
		attached = nil
		found, err := find(l, name)
		switch {
		case err != nil:
			return err
		case !found.state.alive():
			return ErrNotRunning
		}
		text, err := l.DomainGetXMLDesc(found.Domain, 0)
		if err != nil {
			return err
		}
		live, err := parse(name, text)
		if err != nil || live.Devices == nil {
			return err
		}
		networks, err := networksOf(text)
		if err != nil {
			return fmt.Errorf("read the definition of domain %q: %w", name, err)
		}
		running := Domain{UUID: live.UUID}
		for _, one := range live.Devices.Interfaces {
			iface, ours := nameOf(one)
			if !ours {
				continue
			}
			is := decodeInterface(one)
			if network := networks[iface]; network != "" {
				is.Network, is.Bridge, is.VLAN = network, "", 0 // its bridge and its VLAN are the network's
			}
			running.addInterface(iface, is)
		}
		attached = running.Interfaces
		return nil
	})
	return attached, err
}

// networksOf returns the networks of the interfaces in the definition of a running domain. libvirt describes an
// interface on a network that is a bridge of the host as one on a bridge, with the name of the network beside it.
func networksOf(definition string) (map[string]string, error) {
	var domain struct {
		Interfaces []struct {
			Source struct {
				Network string `xml:"network,attr"`
			} `xml:"source"`
			Alias struct {
				Name string `xml:"name,attr"`
			} `xml:"alias"`
		} `xml:"devices>interface"`
	}
	if err := xml.Unmarshal([]byte(definition), &domain); err != nil {
		return nil, err
	}
	networks := map[string]string{}
	for _, one := range domain.Interfaces {
		if iface, ours := strings.CutPrefix(one.Alias.Name, networkAlias); ours {
			networks[iface] = one.Source.Network
		}
	}
	return networks, nil
}

// UpdateInterface implements Hypervisor. The definition is changed last: if changing it fails, a later call changes it.
func (h *Libvirt) UpdateInterface(ctx context.Context, name, iface string, device Interface) error {
	what := fmt.Sprintf("change interface %q of domain %q", iface, name)
	attached, err := h.AttachedInterfaces(ctx, name)
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return fmt.Errorf("%s: %w", what, err)
	}
	is, runs := attached[iface]
	switch {
	case runs && !is.Down && (is.Bridge != device.Bridge || is.Network != device.Network):
		err = h.moveInterface(ctx, what, name, iface, is, device)
	case runs:
		err = h.updateInterface(ctx, what, name, iface, device, libvirt.DomainAffectLive)
	}
	if err != nil && !errors.Is(err, ErrNotRunning) {
		return err
	}
	err = h.updateInterface(ctx, what, name, iface, device, libvirt.DomainAffectConfig)
	if runs && errors.Is(err, ErrNoInterface) {
		return nil
	}
	return err
}

// moveInterface has the running domain's card on another bridge or network, with its link down for
// a moment. If it cannot be moved there, it stays where it is, with its link up.
func (h *Libvirt) moveInterface(ctx context.Context, what, name, iface string, is, device Interface) error {
	down := is
	down.Down = true
	err := h.updateInterface(ctx, what, name, iface, down, libvirt.DomainAffectLive)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		err = fmt.Errorf("%s: %w", what, ctx.Err())
	case <-time.After(linkDownFor):
		err = h.updateInterface(ctx, what, name, iface, device, libvirt.DomainAffectLive)
	}
	if err == nil {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), linkBackLimit)
	defer cancel()
	return errors.Join(err, h.updateInterface(back, what+" back", name, iface, is, libvirt.DomainAffectLive))
}

// updateInterface changes the running domain or the definition.
func (h *Libvirt) updateInterface(ctx context.Context, what, name, iface string, device Interface,
	impact libvirt.DomainModificationImpact) error {
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		of := found.defined
		if impact == libvirt.DomainAffectLive {
			if of, err = describe(l, found.Domain, 0); err != nil {
				return err
			}
		}
		one := interfaceOf(of, iface)
		if one == nil {
			return ErrNoInterface
		}
		one.Link, one.Source = linkOf(device.Down), device.source()
		text, err := one.Marshal()
		if err != nil {
			return fmt.Errorf("describe the device: %w", err)
		}
		return l.DomainUpdateDeviceFlags(found.Domain, text, libvirt.DomainDeviceModifyFlags(impact))
	})
}

// vlanVersion is the first version of libvirt that puts an interface on a Linux bridge into a VLAN.
const vlanVersion = 11_000_000

// CheckVLAN implements Hypervisor. libvirt itself does not look whether the bridge separates VLANs:
// on one that does not, the interface would be in no VLAN.
func (h *Libvirt) CheckVLAN(ctx context.Context, bridge string) error {
	if err := CheckBridgeName(bridge); err != nil {
		return err
	}
	var version uint64
	err := h.call(ctx, "ask for the version of libvirt", func(l *libvirt.Libvirt) (err error) {
		version, err = l.ConnectGetLibVersion()
		return err
	})
	if err != nil {
		return err
	}
	if version < vlanVersion {
		return fmt.Errorf("%w: that needs libvirt %s, and the host has %s", ErrNoVLAN,
			versionText(vlanVersion), versionText(version))
	}
	file := "/sys/class/net/" + bridge + "/bridge/vlan_filtering"
	text, err := h.machine.ReadTail(ctx, file, 1<<16) // all of it
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf(
			"%w: bridge %q does not exist, or the kernel of the host cannot filter VLANs (CONFIG_BRIDGE_VLAN_FILTERING)", ErrNoVLAN, bridge)
	case err != nil:
		return fmt.Errorf("ask whether bridge %q filters VLANs: %w", bridge, err)
	case strings.TrimSpace(string(text)) != "1":
		return fmt.Errorf("%w: bridge %q does not filter VLANs", ErrNoVLAN, bridge)
	}
	return nil
}

// checkVLANs checks the bridges of all interfaces that are to be in a VLAN.
func (h *Libvirt) checkVLANs(ctx context.Context, interfaces map[string]Interface) error {
	for name, one := range interfaces {
		if one.VLAN == 0 {
			continue
		}
		if err := h.CheckVLAN(ctx, one.Bridge); err != nil {
			return fmt.Errorf("interface %q is to be in VLAN %d: %w", name, one.VLAN, err)
		}
	}
	return nil
}

// checkDefinedVLANs is checkVLANs for a definition.
func (h *Libvirt) checkDefinedVLANs(ctx context.Context, defined *libvirtxml.Domain) error {
	if defined.Devices == nil {
		return nil
	}
	domain := Domain{Name: defined.Name, UUID: defined.UUID}
	if err := domain.decodeInterfaces(defined.Devices); err != nil {
		return err
	}
	return h.checkVLANs(ctx, domain.Interfaces)
}

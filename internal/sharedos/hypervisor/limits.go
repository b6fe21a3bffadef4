package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// MaxVCPUs is how many processors a domain of this package can have, whatever the host can do.
const MaxVCPUs = 255

// ErrNoNetwork means that libvirt answered that it has no network of the name.
var ErrNoNetwork = errors.New("libvirt has no such network")

// Limits are what a domain can have at most on a host.
type Limits struct {
	// VCPUs is how many processors QEMU can give a domain.
	VCPUs int
	// Processors are the host's own. A domain can have more of them, and is slow then.
	Processors int
	// Memory of the host, in bytes.
	Memory int64
	// Emulated is true if the host has no KVM for domains.
	Emulated bool
	// User is the number of the user that QEMU runs as.
	User int
}

// CheckInterfaceName returns why a text cannot name a network interface of a domain.
func CheckInterfaceName(name string) error {
	if !interfaceName.MatchString(name) {
		return fmt.Errorf("%q is not a name of 1 to 32 letters, digits, _ and -, starting with a letter or digit", name)
	}
	return nil
}

// CheckNetworkName returns why a text cannot name a libvirt network.
func CheckNetworkName(name string) error {
	if !networkName.MatchString(name) {
		return fmt.Errorf("%q is not a name of 1 to 64 letters, digits, _, . and -, starting with a letter or digit",
			name)
	}
	return nil
}

// maxBridgeName is the length of the longest name of a network device of Linux (IFNAMSIZ), in bytes.
const maxBridgeName = 15

// CheckBridgeName returns why a text cannot name a bridge of the host.
func CheckBridgeName(name string) error {
	if !networkName.MatchString(name) || len(name) > maxBridgeName {
		return fmt.Errorf("%q is not a name of 1 to %d letters, digits, _, . and -, starting with a letter or digit",
			name, maxBridgeName)
	}
	return nil
}

// limits are asked of libvirt once.
type limits struct {
	sync.Mutex
	known *Limits
}

// Limits implements Hypervisor.
func (h *Libvirt) Limits(ctx context.Context) (Limits, error) {
	h.limits.Lock()
	defer h.limits.Unlock()
	if h.limits.known != nil {
		return *h.limits.known, nil
	}
	found := Limits{VCPUs: MaxVCPUs}
	err := h.call(ctx, "ask what domains can have", func(l *libvirt.Libvirt) error {
		platform, err := h.platform(ctx, l)
		if err != nil {
			return err
		}
		_, kib, processors, _, _, _, _, _, err := l.NodeGetInfo()
		if err != nil {
			return fmt.Errorf("ask for the host's processors and memory: %w", err)
		}
		found.User, found.Emulated = platform.qemuUser, platform.virtType == emulated
		found.Processors, found.Memory = int(processors), int64(kib)<<10 //nolint:gosec // a host has fewer
		text, err := l.ConnectGetDomainCapabilities(nil, libvirt.OptString{arch}, libvirt.OptString{MachineQ35},
			libvirt.OptString{platform.virtType}, 0)
		if err != nil {
			return fmt.Errorf("ask for the capabilities of domains: %w", err)
		}
		var capabilities libvirtxml.DomainCaps
		if err := capabilities.Unmarshal(text); err != nil {
			return fmt.Errorf("read the capabilities of domains: %w", err)
		}
		if capabilities.VCPU != nil && capabilities.VCPU.Max > 0 {
			found.VCPUs = min(found.VCPUs, int(capabilities.VCPU.Max)) //nolint:gosec // the smaller one counts
		}
		return nil
	})
	if err != nil {
		return Limits{}, err
	}
	h.limits.known = &found
	return found, nil
}

// NetworkActive implements Hypervisor.
func (h *Libvirt) NetworkActive(ctx context.Context, name string) (active bool, err error) {
	err = h.call(ctx, fmt.Sprintf("look up network %q", name), func(l *libvirt.Libvirt) error {
		network, err := l.NetworkLookupByName(name)
		if libvirtconn.Is(err, libvirt.ErrNoNetwork) {
			return fmt.Errorf("%w: %w", ErrNoNetwork, err)
		}
		if err != nil {
			return err
		}
		state, err := l.NetworkIsActive(network)
		active = state != 0
		return err
	})
	return active, err
}

// IsBridge implements Hypervisor. Linux keeps the settings of a bridge in a directory of its device.
func (h *Libvirt) IsBridge(ctx context.Context, name string) (bool, error) {
	if err := CheckBridgeName(name); err != nil {
		return false, err
	}
	found, err := h.machine.Exists(ctx, "/sys/class/net/"+name+"/bridge")
	if err != nil {
		return false, fmt.Errorf("look for bridge %q: %w", name, err)
	}
	return found, nil
}

package hypervisor

import (
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// Listed is one domain of Inventory.
type Listed struct {
	Domain
	State State
	// Damaged matches ErrDamaged if the record in the domain's metadata cannot be read. The Domain
	// then has its name and UUID alone.
	Damaged error
}

// Inventory implements Hypervisor.
func (h *Libvirt) Inventory(ctx context.Context) ([]Listed, error) {
	var all []Listed
	err := h.call(ctx, "list domains", func(l *libvirt.Libvirt) error {
		all = nil
		handles, _, err := l.ConnectListAllDomains(1, 0)
		if err != nil {
			return err
		}
		for _, handle := range handles {
			found, err := inspect(l, handle)
			if errors.Is(err, ErrForeign) || libvirtconn.Is(err, libvirt.ErrNoDomain) {
				continue
			}
			if err != nil {
				return err
			}
			one := Listed{State: found.state}
			one.Domain, err = decode(found.defined)
			if errors.Is(err, ErrDamaged) {
				one.Domain, one.Damaged = Domain{Name: found.defined.Name, UUID: found.defined.UUID}, err
			} else if err != nil {
				return err
			}
			all = append(all, one)
		}
		return nil
	})
	return all, err
}

// List implements Hypervisor.
func (h *Libvirt) List(ctx context.Context) ([]Domain, error) {
	all, err := h.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	domains := make([]Domain, len(all))
	for i, one := range all {
		if one.Damaged != nil {
			return nil, one.Damaged
		}
		domains[i] = one.Domain
	}
	return domains, nil
}

// Kinds of vsock of a host.
const (
	// VSockVhost: the host's kernel has vhost-vsock.
	VSockVhost = "vhost-vsock"
	// VSockVhostUser: a daemon for each VM serves its vsock.
	VSockVhostUser = "vhost-user"
)

// Facts are what a host runs domains with.
type Facts struct {
	// Libvirt and QEMU are versions, such as "11.3.0".
	Libvirt, QEMU string
	// KVM is true if the processor runs the guests. Otherwise QEMU emulates them.
	KVM bool
	// VSock is VSockVhost or VSockVhostUser, and "" if the host has neither.
	VSock string
	// Limits are what a domain can have at most.
	Limits Limits
	// StartsAlone is as in Hypervisor.
	StartsAlone bool
}

// Facts implements Hypervisor.
func (h *Libvirt) Facts(ctx context.Context) (Facts, error) {
	var facts Facts
	var hostVSock bool
	err := h.call(ctx, "ask for the versions of libvirt and QEMU", func(l *libvirt.Libvirt) error {
		own, err := l.ConnectGetLibVersion()
		if err != nil {
			return err
		}
		driver, err := l.ConnectGetVersion()
		if err != nil {
			return err
		}
		platform, err := h.platform(ctx, l)
		if err != nil {
			return err
		}
		facts.Libvirt, facts.QEMU = versionText(own), versionText(driver)
		facts.KVM, hostVSock = platform.virtType == "kvm", platform.hostVSock
		return nil
	})
	if err != nil {
		return Facts{}, err
	}
	if facts.Limits, err = h.Limits(ctx); err != nil {
		return Facts{}, err
	}
	if facts.StartsAlone, err = h.StartsAlone(ctx); err != nil {
		return Facts{}, err
	}
	facts.VSock = VSockVhost
	if !hostVSock {
		installed, err := h.machine.Installed(ctx, vsockDaemon)
		if err != nil {
			return Facts{}, fmt.Errorf("look for %s: %w", vsockDaemon, err)
		}
		facts.VSock = ""
		if installed {
			facts.VSock = VSockVhostUser
		}
	}
	return facts, nil
}

// versionText formats a version as libvirt encodes it: 1,000,000 × major + 1,000 × minor + release.
func versionText(version uint64) string {
	return fmt.Sprintf("%d.%d.%d", version/1_000_000, version/1_000%1_000, version%1_000)
}

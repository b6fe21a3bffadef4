package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

const (
	// detachTimeout bounds a detach if its context does not.
	detachTimeout = time.Minute
	// detachRepeat is how often the guest is asked to release a device.
	detachRepeat = time.Second
)

// attach adds a device with an alias to a running domain and to its definition, where it is
// missing. reserved ports stay free. check says why the device cannot be added to a definition.
// device describes it as XML, for all of the definitions that there are.
func (h *Libvirt) attach(ctx context.Context, what, name, alias string, reserved int,
	check func(*libvirtxml.Domain) error, device func(definitions []*libvirtxml.Domain) (string, error),
) error {
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		var impact libvirt.DomainModificationImpact
		lacking := []*libvirtxml.Domain{}
		if !hasAlias(found.defined, alias) {
			impact |= libvirt.DomainAffectConfig
			lacking = append(lacking, found.defined)
		}
		definitions := []*libvirtxml.Domain{found.defined}
		if found.state.alive() {
			text, err := l.DomainGetXMLDesc(found.Domain, 0)
			if err != nil {
				return err
			}
			live, err := parse(found.Name, text)
			if err != nil {
				return err
			}
			definitions = append(definitions, live)
			if !hasAlias(live, alias) {
				impact |= libvirt.DomainAffectLive
				lacking = append(lacking, live)
				if err := checkPorts(text, reserved); err != nil {
					return err
				}
			}
		}
		if impact == 0 {
			return nil
		}
		for _, definition := range lacking {
			if err := check(definition); err != nil {
				return err
			}
		}
		text, err := device(definitions)
		if err != nil {
			return fmt.Errorf("describe the device: %w", err)
		}
		return l.DomainAttachDeviceFlags(found.Domain, text, uint32(impact))
	})
}

// hasAlias reports whether a definition has a disk or an interface with an alias.
func hasAlias(domain *libvirtxml.Domain, alias string) bool {
	if domain.Devices == nil {
		return false
	}
	is := func(one *libvirtxml.DomainAlias) bool { return one != nil && one.Name == alias }
	return slices.ContainsFunc(domain.Devices.Disks, func(disk libvirtxml.DomainDisk) bool { return is(disk.Alias) }) ||
		slices.ContainsFunc(domain.Devices.Interfaces,
			func(one libvirtxml.DomainInterface) bool { return is(one.Alias) })
}

// checkPorts verifies that a running domain has a PCIe port for one more device, besides those that stay reserved.
func checkPorts(definition string, reserved int) error {
	free, err := freePorts(definition)
	if err != nil {
		return err
	}
	if free <= reserved {
		return fmt.Errorf(
			"%w: it has %d free ports, of which %d are kept for the layers of a refresh; power it off and apply "+
				"again, so that it starts with all that it needs", ErrNoPort, free, reserved)
	}
	return nil
}

// detach removes the device with an alias from the running domain, and after that from its definition.
func (h *Libvirt) detach(ctx context.Context, what, name, alias string) error {
	bounded, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	var asked time.Time
	var refused error
	for {
		attached := false
		err := h.call(bounded, what, func(l *libvirt.Libvirt) error {
			found, err := find(l, name)
			if err != nil {
				return err
			}
			if attached, err = hasLive(l, found, alias); err != nil {
				return err
			}
			if !attached {
				return detachFromDefinition(l, found, alias)
			}
			if time.Since(asked) >= detachRepeat {
				asked = time.Now()
				refused = answerOf(l.DomainDetachDeviceAlias(found.Domain, alias, uint32(libvirt.DomainAffectLive)))
			}
			return nil
		})
		if err != nil || !attached {
			return err
		}
		select {
		case <-bounded.Done():
			return fmt.Errorf("%s: the guest has not released it: %w", what, errors.Join(bounded.Err(), refused))
		case <-time.After(pollEvery):
		}
	}
}

func hasLive(l *libvirt.Libvirt, found ours, alias string) (bool, error) {
	if !found.state.alive() {
		return false, nil
	}
	live, err := describe(l, found.Domain, 0)
	if err != nil {
		return false, err
	}
	return hasAlias(live, alias), nil
}

func detachFromDefinition(l *libvirt.Libvirt, found ours, alias string) error {
	if !hasAlias(found.defined, alias) {
		return nil
	}
	err := l.DomainDetachDeviceAlias(found.Domain, alias, uint32(libvirt.DomainAffectConfig))
	if libvirtconn.Is(err, libvirt.ErrDeviceMissing) {
		return nil
	}
	return err
}

// answerOf returns an error only if libvirt answered with one. libvirt refuses a second request while the
// guest has not answered the first, which is no reason to stop waiting. A lost connection fails the next call.
func answerOf(err error) error {
	var answer libvirt.Error
	if errors.As(err, &answer) {
		return answer
	}
	return nil
}

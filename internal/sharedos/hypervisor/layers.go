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
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// detachTimeout bounds DetachLayer if its context does not.
	detachTimeout = time.Minute
	// detachRepeat is how often the guest is asked to release a disk.
	detachRepeat = time.Second
)

// AttachedLayers implements Hypervisor.
func (h *Libvirt) AttachedLayers(ctx context.Context, name string) ([]tree.Digest, error) {
	var ids []tree.Digest
	err := h.call(ctx, fmt.Sprintf("list the layers of domain %q", name), func(l *libvirt.Libvirt) error {
		ids = nil
		found, err := find(l, name)
		if err != nil || !found.state.alive() {
			return err
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil {
			return err
		}
		for _, layer := range layersOf(live) {
			ids = append(ids, layer.ID)
		}
		return nil
	})
	return ids, err
}

// AttachLayer implements Hypervisor.
func (h *Libvirt) AttachLayer(ctx context.Context, name string, layer LayerDevice) error {
	what := fmt.Sprintf("attach layer %s to domain %q", layer.ID, name)
	if err := layer.check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.attach(ctx, what, name, layerAliasOf(layer.ID), 0,
		func(definition *libvirtxml.Domain) error { return checkAddition(definition, layer) }, layer.disk)
}

// attach adds a disk with an alias to a running domain and to its definition, where it is missing. reserved ports stay free. check says
// why the disk cannot be added to a definition, and device describes it by its target.
func (h *Libvirt) attach(ctx context.Context, what, name, alias string, reserved int,
	check func(*libvirtxml.Domain) error, device func(target string) libvirtxml.DomainDisk,
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
		disk := device(freeTarget(definitions))
		text, err := disk.Marshal()
		if err != nil {
			return fmt.Errorf("describe the device: %w", err)
		}
		return l.DomainAttachDeviceFlags(found.Domain, text, uint32(impact))
	})
}

// hasAlias reports whether a definition has a disk with an alias.
func hasAlias(domain *libvirtxml.Domain, alias string) bool {
	return domain.Devices != nil && slices.ContainsFunc(domain.Devices.Disks, func(disk libvirtxml.DomainDisk) bool {
		return disk.Alias != nil && disk.Alias.Name == alias
	})
}

// checkPorts verifies that a running domain has a PCIe port for one more device, besides those that stay reserved.
func checkPorts(definition string, reserved int) error {
	free, err := freePorts(definition)
	if err != nil {
		return err
	}
	if free <= reserved {
		return fmt.Errorf("%w: it has %d free ports, of which %d are kept for the layers of a refresh; power it off and apply again, so that "+
			"it starts with all that it needs", ErrNoPort, free, reserved)
	}
	return nil
}

// freeTarget is the first name of a disk that no definition has.
func freeTarget(definitions []*libvirtxml.Domain) string {
	used := map[string]bool{}
	for _, definition := range definitions {
		if definition.Devices == nil {
			continue
		}
		for _, disk := range definition.Devices.Disks {
			if disk.Target != nil {
				used[disk.Target.Dev] = true
			}
		}
	}
	i := 0
	for used[targetName(i)] {
		i++
	}
	return targetName(i)
}

// DetachLayer implements Hypervisor. The layer leaves the definition last: if detaching fails before that, the definition still
// has it, and a later call detaches it again.
func (h *Libvirt) DetachLayer(ctx context.Context, name string, id tree.Digest) error {
	return h.detach(ctx, fmt.Sprintf("detach layer %s from domain %q", id, name), name, layerAliasOf(id))
}

// detach removes the disk with an alias from the running domain, and after that from its definition.
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
			if attached, err = hasLiveDisk(l, found, alias); err != nil {
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

func hasLiveDisk(l *libvirt.Libvirt, found ours, alias string) (bool, error) {
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

// answerOf returns an error only if libvirt answered with one. libvirt refuses a second request while the guest has not answered
// the first, which is no reason to stop waiting. A lost connection fails the next call.
func answerOf(err error) error {
	var answer libvirt.Error
	if errors.As(err, &answer) {
		return answer
	}
	return nil
}

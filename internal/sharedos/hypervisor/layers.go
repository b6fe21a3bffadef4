package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// detachTimeout bounds DetachLayer if its context does not.
	detachTimeout = time.Minute
	// detachRepeat is how often the guest is asked to release a layer.
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
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		var impact libvirt.DomainModificationImpact
		lacking := []*libvirtxml.Domain{}
		if !hasLayer(found.defined, layer.ID) {
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
			if !hasLayer(live, layer.ID) {
				impact |= libvirt.DomainAffectLive
				lacking = append(lacking, live)
				if err := checkPorts(text); err != nil {
					return err
				}
			}
		}
		if impact == 0 {
			return nil
		}
		for _, definition := range lacking {
			if err := checkAddition(definition, layer); err != nil {
				return err
			}
		}
		disk := layer.disk(freeTarget(definitions))
		text, err := disk.Marshal()
		if err != nil {
			return fmt.Errorf("describe the device: %w", err)
		}
		return l.DomainAttachDeviceFlags(found.Domain, text, uint32(impact))
	})
}

// checkPorts verifies that a running domain has a PCIe port for one more device.
func checkPorts(definition string) error {
	free, err := freePorts(definition)
	if err != nil {
		return err
	}
	if free == 0 {
		return fmt.Errorf("%w: it takes %d in addition to those that it was started with; power it off and apply again, so that it starts "+
			"with all that it needs", ErrNoPort, SpareLayers)
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
	what := fmt.Sprintf("detach layer %s from domain %q", id, name)
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
			if attached, err = hasLiveLayer(l, found, id); err != nil {
				return err
			}
			if !attached {
				return detachFromDefinition(l, found, id)
			}
			if time.Since(asked) >= detachRepeat {
				asked = time.Now()
				refused = answerOf(l.DomainDetachDeviceAlias(found.Domain, layerAliasOf(id), uint32(libvirt.DomainAffectLive)))
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

func hasLiveLayer(l *libvirt.Libvirt, found ours, id tree.Digest) (bool, error) {
	if !found.state.alive() {
		return false, nil
	}
	live, err := describe(l, found.Domain, 0)
	if err != nil {
		return false, err
	}
	return hasLayer(live, id), nil
}

func detachFromDefinition(l *libvirt.Libvirt, found ours, id tree.Digest) error {
	if !hasLayer(found.defined, id) {
		return nil
	}
	err := l.DomainDetachDeviceAlias(found.Domain, layerAliasOf(id), uint32(libvirt.DomainAffectConfig))
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

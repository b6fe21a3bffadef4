package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// detachTimeout bounds DetachLayer when its context does not.
const detachTimeout = time.Minute

// AttachLayer implements Hypervisor.
func (h *Libvirt) AttachLayer(ctx context.Context, name string, layer LayerDevice) error {
	what := fmt.Sprintf("attach layer %s to domain %q", layer.ID, name)
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := layer.check(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return h.call(ctx, what, func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		holders := []holder{{found.defined, libvirt.DomainAffectConfig}}
		if found.state.alive() {
			live, err := describe(l, found.Domain, 0)
			if err != nil {
				return err
			}
			holders = append(holders, holder{live, libvirt.DomainAffectLive})
		}
		var missing libvirt.DomainModificationImpact
		used := map[string]bool{}
		for _, holder := range holders {
			if !holder.has(layer.ID) {
				missing |= holder.impact
			}
			if err := holder.room(layer); err != nil {
				return err
			}
			for _, disk := range holder.domain.Devices.Disks {
				if disk.Target != nil {
					used[disk.Target.Dev] = true
				}
			}
		}
		if missing == 0 {
			return nil
		}
		target := 0
		for used[targetName(target)] {
			target++
		}
		disk := layerDevice(layer, targetName(target))
		text, err := disk.Marshal()
		if err != nil {
			return fmt.Errorf("describe the disk: %w", err)
		}
		err = l.DomainAttachDeviceFlags(found.Domain, text, uint32(missing))
		if err != nil && strings.Contains(err.Error(), "No more available PCI") {
			return fmt.Errorf("it has room for %d layers beyond those it was started with, and all are taken: power it off and apply again, "+
				"to start it with what it needs: %w", sparePorts, err)
		}
		return err
	})
}

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
		if live.Devices == nil {
			return nil
		}
		for _, disk := range live.Devices.Disks {
			if id, ok := layerOf(disk.Alias); ok {
				ids = append(ids, id)
			}
		}
		return nil
	})
	return ids, err
}

// holder is one of the two definitions that a domain can have: the persistent one and the running one.
type holder struct {
	domain *libvirtxml.Domain
	impact libvirt.DomainModificationImpact
}

func (h holder) has(id tree.Digest) bool {
	return h.domain.Devices != nil && slices.ContainsFunc(h.domain.Devices.Disks, func(disk libvirtxml.DomainDisk) bool {
		have, ok := layerOf(disk.Alias)
		return ok && have == id
	})
}

// room checks that the layer can be told from the others and is not one too many.
func (h holder) room(layer LayerDevice) error {
	if h.domain.Devices == nil {
		return errors.New("its definition has no devices")
	}
	if h.has(layer.ID) {
		return nil
	}
	layers := []LayerDevice{layer}
	for _, disk := range h.domain.Devices.Disks {
		if id, ok := layerOf(disk.Alias); ok {
			layers = append(layers, LayerDevice{ID: id, Path: pathOf(disk)})
		}
	}
	return errors.Join(checkLayers(layers)...)
}

// DetachLayer implements Hypervisor.
func (h *Libvirt) DetachLayer(ctx context.Context, name string, id tree.Digest) error {
	what := fmt.Sprintf("detach layer %s from domain %q", id, name)
	bounded, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	var asked time.Time
	var refused error
	for {
		there := false
		err := h.call(bounded, what, func(l *libvirt.Libvirt) error {
			found, err := find(l, name)
			if err != nil {
				return err
			}
			if there, err = h.plugged(l, found, id); err != nil {
				return err
			}
			if there {
				if time.Since(asked) < time.Second {
					return nil
				}
				asked = time.Now()
				refused = answerOnly(l.DomainDetachDeviceAlias(found.Domain, aliasOf(id), uint32(libvirt.DomainAffectLive)))
				return nil
			}
			// The definition last: until then the layer is wanted, and what failed is tried again.
			if !(holder{domain: found.defined}).has(id) {
				return nil
			}
			err = l.DomainDetachDeviceAlias(found.Domain, aliasOf(id), uint32(libvirt.DomainAffectConfig))
			if libvirtconn.Is(err, libvirt.ErrDeviceMissing) {
				return nil
			}
			return err
		})
		if err != nil || !there {
			return err
		}
		select {
		case <-bounded.Done():
			return fmt.Errorf("%s: the guest has not let go of it: %w", what, errors.Join(bounded.Err(), refused))
		case <-time.After(pollEvery):
		}
	}
}

// plugged reports whether the running domain has the layer.
func (h *Libvirt) plugged(l *libvirt.Libvirt, found ours, id tree.Digest) (bool, error) {
	if !found.state.alive() {
		return false, nil
	}
	live, err := describe(l, found.Domain, 0)
	if err != nil {
		return false, err
	}
	return holder{domain: live}.has(id), nil
}

// answerOnly keeps what libvirt said. It refuses a second request while the guest has not answered the first,
// which is no reason to stop waiting; a lost connection shows at the next question.
func answerOnly(err error) error {
	var answer libvirt.Error
	if errors.As(err, &answer) {
		return answer
	}
	return nil
}

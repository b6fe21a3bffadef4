package hypervisor

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxLayers is how many layers a domain can have at once, including those that were attached while it ran.
const MaxLayers = 24

// ErrTooManyLayers means that a domain would have more layers than MaxLayers.
var ErrTooManyLayers = errors.New("too many layers")

// maxSerial is how many characters the serial of a virtio disk can have.
const maxSerial = 20

// layerAlias begins the alias of a layer device. libvirt keeps aliases that begin with "ua-".
const layerAlias = "ua-layer-"

// LayerDevice is a layer as a device of a domain: a read-only disk that domains share.
type LayerDevice struct {
	ID tree.Digest
	// Path of the layer's volume on the host.
	Path string
	// Offer is true for the layer of an offer (release.Offer), which the guest has to find without knowing its id.
	Offer bool
}

// serial is the disk serial by which the guest finds the layer.
func (l LayerDevice) serial() string {
	if l.Offer {
		return agentapi.OfferSerialPrefix + l.ID.Hex()[:maxSerial-len(agentapi.OfferSerialPrefix)]
	}
	return LayerSerial(l.ID)
}

// LayerSerial is the disk serial by which the guest finds a layer: the first 20 hexadecimal digits of its id.
func LayerSerial(id tree.Digest) string { return id.Hex()[:maxSerial] }

// layerAliasOf is the alias of a layer's device. It has room for the whole id, which the serial has not.
func layerAliasOf(id tree.Digest) string { return layerAlias + id.Hex() }

// disk describes the device. Reads go through the host's page cache, where one copy serves every VM.
func (l LayerDevice) disk(target string) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device:    "disk",
		Driver:    &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw", Cache: "writeback"},
		Source:    diskSource(l.Path),
		Target:    &libvirtxml.DomainDiskTarget{Dev: target, Bus: "virtio"},
		ReadOnly:  &libvirtxml.DomainDiskReadOnly{},
		Shareable: &libvirtxml.DomainDiskShareable{},
		Serial:    l.serial(),
		Alias:     &libvirtxml.DomainAlias{Name: layerAliasOf(l.ID)},
	}
}

// layersOf finds the layer devices in a definition.
func layersOf(domain *libvirtxml.Domain) []LayerDevice {
	if domain.Devices == nil {
		return nil
	}
	var layers []LayerDevice
	for _, disk := range domain.Devices.Disks {
		if id, ok := layerIDOf(disk); ok {
			layers = append(layers, LayerDevice{
				ID: id, Path: sourcePath(disk), Offer: strings.HasPrefix(disk.Serial, agentapi.OfferSerialPrefix),
			})
		}
	}
	return layers
}

// layerIDOf returns the id of the layer that a disk is; false if it is no layer device.
func layerIDOf(disk libvirtxml.DomainDisk) (tree.Digest, bool) {
	var id tree.Digest
	if disk.Alias == nil {
		return id, false
	}
	digits, ok := strings.CutPrefix(disk.Alias.Name, layerAlias)
	if !ok || len(digits) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(digits))
	return id, err == nil
}

// check verifies one layer device.
func (l LayerDevice) check() error {
	if l.ID.IsZero() {
		return fmt.Errorf("layer at %q has no id", l.Path)
	}
	if err := checkPath(l.Path); err != nil {
		return fmt.Errorf("layer %s: %w", l.ID, err)
	}
	return nil
}

// checkLayers verifies all layer devices of a domain: the guest has to tell each from the others by its serial.
func checkLayers(layers []LayerDevice) []error {
	var wrong []error
	if len(layers) > MaxLayers {
		wrong = append(wrong,
			fmt.Errorf("%w: %d, and at most %d can be attached", ErrTooManyLayers, len(layers), MaxLayers))
	}
	serials := map[string]tree.Digest{}
	for _, layer := range layers {
		if err := layer.check(); err != nil {
			wrong = append(wrong, err)
		}
		serial := layer.serial()
		if other, twice := serials[serial]; twice {
			wrong = append(wrong, fmt.Errorf("layers %s and %s have the same serial %s", other, layer.ID, serial))
		}
		serials[serial] = layer.ID
	}
	return wrong
}

// checkAddition verifies that a layer can be added to those of a definition.
func checkAddition(domain *libvirtxml.Domain, layer LayerDevice) error {
	if domain.Devices == nil {
		return errors.New("its definition has no devices")
	}
	return errors.Join(checkLayers(append(layersOf(domain), layer))...)
}

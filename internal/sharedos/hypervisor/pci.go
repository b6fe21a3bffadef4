package hypervisor

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// A device that can come and go while the domain runs needs a PCIe root port of its own. The root
// bus, pcie.0, takes the ports themselves, and devices that stay.
const (
	// SpareLayers is how many layers can be attached to a running domain in addition to those that it was started with.
	SpareLayers = 12
	// SpareDisks is how many ports there are in addition to those for layers.
	SpareDisks = 4
	// LayerPorts are left free by further disks, since a refresh attaches the new layers before it
	// detaches the old ones.
	LayerPorts = 8
	// firstSlot and lastSlot are the slots of pcie.0 for devices that only QEMU's command line
	// names, so that libvirt does not know them. libvirt fills slots from 1 up, with eight root
	// ports in each, and QEMU's chipset has the last one.
	firstSlot = 0x10
	lastSlot  = 0x1e
	// watchdogSlot is the slot of pcie.0 in which the agent looks for the watchdog.
	watchdogSlot = 0x0f
)

// rootPort is libvirt's model of a PCIe root port.
const rootPort = "pcie-root-port"

// pciAddress is a slot of the root bus.
func pciAddress(slot uint) *libvirtxml.DomainAddress {
	var none uint
	return &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{Domain: &none, Bus: &none,
		Slot: &slot, Function: &none}}
}

// controllers are a PCIe root bus with a number of root ports, and no USB.
func controllers(ports int) []libvirtxml.DomainController {
	index := func(i int) *uint { u := uint(i); return &u }
	all := []libvirtxml.DomainController{
		{Type: "usb", Model: "none", Index: index(0)},
		{Type: "pci", Model: "pcie-root", Index: index(0)},
	}
	for i := range ports {
		all = append(all, libvirtxml.DomainController{Type: "pci", Model: rootPort, Index: index(i + 1)})
	}
	return all
}

// freePorts counts the root ports without a device in the definition of a running domain. libvirt
// has no error code of its own for a domain that has none left.
func freePorts(definition string) (int, error) {
	ports, taken := map[uint64]bool{}, map[uint64]bool{}
	decoder := xml.NewDecoder(strings.NewReader(definition))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, fmt.Errorf("read the PCI addresses of its devices: %w", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		attributes := map[string]string{}
		for _, attribute := range start.Attr {
			attributes[attribute.Name.Local] = attribute.Value
		}
		switch {
		case start.Name.Local == "controller" && attributes["model"] == rootPort:
			err = number(ports, attributes["index"])
		case start.Name.Local == "address" && attributes["type"] == "pci":
			err = number(taken, attributes["bus"])
		}
		if err != nil {
			return 0, fmt.Errorf("read the PCI addresses of its devices: %w", err)
		}
	}
	free := 0
	for bus := range ports {
		if !taken[bus] {
			free++
		}
	}
	return free, nil
}

// number adds a number as libvirt writes it, decimal or with 0x, to a set.
func number(set map[uint64]bool, text string) error {
	parsed, err := strconv.ParseUint(text, 0, 32)
	if err == nil {
		set[parsed] = true
	}
	return err
}

package hypervisor

import (
	"fmt"

	"libvirt.org/go/libvirtxml"
)

// foreignDevices returns the devices of kinds that this package never describes, and so were added by others,
// as XML; "" if there are none. It has none of a definition with patches, which add devices of any kind.
func foreignDevices(devices *libvirtxml.DomainDeviceList, patches []Patch) (string, error) {
	if len(patches) > 0 {
		return "", nil
	}
	kept := libvirtxml.DomainDeviceList{
		Smartcards: devices.Smartcards, Parallels: devices.Parallels,
		Channels: devices.Channels, Sounds: devices.Sounds,
		Shmems: devices.Shmems, Crypto: devices.Crypto,
	}
	for _, device := range devices.Hostdevs {
		// One of USB that is not named by vendor and product needs a controller, which somebody has to add, too.
		if found, _ := decodeHostDevice(device); found == (HostDevice{}) && device.SubsysUSB == nil {
			kept.Hostdevs = append(kept.Hostdevs, device)
		}
	}
	for _, directory := range devices.Filesystems {
		if !isHostDirectory(directory) {
			kept.Filesystems = append(kept.Filesystems, directory)
		}
	}
	for _, address := range addressesOf(&kept) {
		if *address != nil && (*address).PCI != nil {
			*address = nil // libvirt finds one among the ports of the next definition
		}
	}
	if countDevices(&kept) == 0 {
		return "", nil
	}
	text, err := (&libvirtxml.Domain{Devices: &kept}).Marshal()
	if err != nil {
		return "", fmt.Errorf("read the devices that somebody has added: %w", err)
	}
	return text, nil
}

// addForeignDevices adds to a definition what foreignDevices has returned. It returns how many devices these are.
func addForeignDevices(devices *libvirtxml.DomainDeviceList, text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	var domain libvirtxml.Domain
	if err := domain.Unmarshal(text); err != nil {
		return 0, fmt.Errorf("write the devices that somebody has added: %w", err)
	}
	added := domain.Devices
	if added == nil {
		return 0, nil
	}
	devices.Smartcards = append(devices.Smartcards, added.Smartcards...)
	devices.Parallels = append(devices.Parallels, added.Parallels...)
	devices.Channels = append(devices.Channels, added.Channels...)
	devices.Sounds = append(devices.Sounds, added.Sounds...)
	devices.Shmems = append(devices.Shmems, added.Shmems...)
	devices.Crypto = append(devices.Crypto, added.Crypto...)
	devices.Hostdevs = append(devices.Hostdevs, added.Hostdevs...)
	devices.Filesystems = append(devices.Filesystems, added.Filesystems...)
	return countDevices(added), nil
}

func countDevices(d *libvirtxml.DomainDeviceList) int {
	return len(d.Smartcards) + len(d.Parallels) + len(d.Channels) + len(d.Sounds) + len(d.Shmems) + len(d.Crypto) +
		len(d.Hostdevs) + len(d.Filesystems)
}

// addressesOf returns where the addresses of devices are that foreignDevices keeps.
func addressesOf(d *libvirtxml.DomainDeviceList) (all []**libvirtxml.DomainAddress) {
	for i := range d.Sounds {
		all = append(all, &d.Sounds[i].Address)
	}
	for i := range d.Shmems {
		all = append(all, &d.Shmems[i].Address)
	}
	for i := range d.Crypto {
		all = append(all, &d.Crypto[i].Address)
	}
	for i := range d.Hostdevs {
		all = append(all, &d.Hostdevs[i].Address)
	}
	for i := range d.Filesystems {
		all = append(all, &d.Filesystems[i].Address)
	}
	return all
}

package hypervisor

import (
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// decode reads a definition back into the model. What somebody changed by hand shows in it.
func decode(domain *libvirtxml.Domain) (Domain, error) {
	d := Domain{Name: domain.Name, UUID: domain.UUID, Emulated: domain.Type == emulated}
	var err error
	if d.Metadata, err = decodeMetadata(domain); err != nil {
		return Domain{}, err
	}
	if domain.VCPU != nil {
		d.VCPUs = int(domain.VCPU.Value)
	}
	if domain.Memory != nil {
		if d.Memory, err = bytesOf(domain.Memory.Value, domain.Memory.Unit); err != nil {
			return Domain{}, fmt.Errorf("domain %q: memory: %w", d.Name, err)
		}
	}
	if domain.OS != nil {
		d.Kernel, d.Initramfs = domain.OS.Kernel, domain.OS.Initrd
		rest, _ := strings.CutPrefix(domain.OS.Cmdline, kernelArgs)
		if d.Emulated {
			rest, _ = strings.CutPrefix(rest, emulatedArgs)
		}
		d.KernelArgs = strings.Fields(rest)
	}
	for _, info := range domain.SysInfo {
		if info.SMBIOS == nil || info.SMBIOS.OEMStrings == nil {
			continue
		}
		for _, entry := range info.SMBIOS.OEMStrings.Entry {
			if config, ok := strings.CutPrefix(entry, agentapi.BootConfigPrefix); ok {
				d.BootConfig = []byte(config)
			}
		}
	}
	if domain.Devices != nil {
		d.decodeDevices(domain.Devices)
	}
	if domain.QEMUCommandline != nil {
		d.decodeCommandline(domain.QEMUCommandline)
	}
	return d, nil
}

func bytesOf(value uint, unit string) (int64, error) {
	shift, ok := map[string]uint{"b": 0, "bytes": 0, "": 10, "KiB": 10, "k": 10, "MiB": 20, "M": 20, "GiB": 30, "G": 30}[unit]
	if !ok || uint64(value) > 1<<62>>shift {
		return 0, fmt.Errorf("%d %s cannot be read", value, unit)
	}
	return int64(value) << shift, nil
}

func (d *Domain) decodeDevices(devices *libvirtxml.DomainDeviceList) {
	for _, disk := range devices.Disks {
		if id, ok := layerOf(disk.Alias); ok {
			d.Layers = append(d.Layers, LayerDevice{ID: id, Path: pathOf(disk)})
		} else if disk.Serial == agentapi.PrivateDiskSerial {
			d.PrivateDisk = pathOf(disk)
		}
	}
	for _, serial := range devices.Serials {
		if serial.Source != nil && serial.Source.File != nil && d.ConsoleLog == "" {
			d.ConsoleLog = serial.Source.File.Path
		}
	}
	for _, i := range devices.Interfaces {
		if i.Alias == nil || i.Source == nil {
			continue
		}
		name, ok := strings.CutPrefix(i.Alias.Name, networkAlias)
		if !ok {
			continue
		}
		var found Interface
		switch {
		case i.Source.Bridge != nil:
			found.Bridge = i.Source.Bridge.Bridge
		case i.Source.Network != nil:
			found.Network = i.Source.Network.Network
		}
		if i.MAC != nil {
			found.MAC = i.MAC.Address
		}
		d.addInterface(name, found)
	}
}

// addInterface leaves out a MAC address that is made from the UUID and the name.
func (d *Domain) addInterface(name string, i Interface) {
	if i.MAC == MAC(d.UUID, name) {
		i.MAC = ""
	}
	if d.Interfaces == nil {
		d.Interfaces = map[string]Interface{}
	}
	d.Interfaces[name] = i
}

func pathOf(disk libvirtxml.DomainDisk) string {
	switch {
	case disk.Source == nil:
		return ""
	case disk.Source.File != nil:
		return disk.Source.File.File
	case disk.Source.Block != nil:
		return disk.Source.Block.Dev
	}
	return ""
}

func (d *Domain) decodeCommandline(commandline *libvirtxml.DomainQEMUCommandline) {
	users := map[string]*UserNetwork{}
	for i := 0; i+1 < len(commandline.Args); i++ {
		options := strings.Split(commandline.Args[i+1].Value, ",")
		switch commandline.Args[i].Value {
		case "-netdev":
			if name, ok := option(options, "id", networkAlias); ok && options[0] == "user" {
				users[name] = &UserNetwork{Forwards: forwards(options)}
			}
		case "-device":
			name, ok := option(options, "netdev", networkAlias)
			if user := users[name]; ok && user != nil {
				mac, _ := option(options, "mac", "")
				d.addInterface(name, Interface{User: user, MAC: mac})
			}
		}
	}
}

func option(options []string, key, prefix string) (string, bool) {
	for _, o := range options {
		if value, ok := strings.CutPrefix(o, key+"="+prefix); ok {
			return value, true
		}
	}
	return "", false
}

func forwards(options []string) map[uint16]uint16 {
	all := map[uint16]uint16{}
	for _, o := range options {
		if host, guest, ok := parseForward(o); ok {
			all[host] = guest
		}
	}
	return all
}

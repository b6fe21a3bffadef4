package hypervisor

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// kernelArgs are what every domain gets: its console goes to ConsoleLog, and a panic ends in a reboot.
	kernelArgs = "console=ttyS0 quiet panic=10"
	// emulatedArgs are what an emulated domain gets besides: its processor speculates on nothing, and what Linux does against
	// that (retpolines, stuffed return buffers) takes a sixth of the time of its system calls.
	emulatedArgs = " mitigations=off"
	// sparePorts is how many layers can be plugged in beyond those that the domain starts with.
	sparePorts = 12
	// firstSlot is the slot on pcie.0 of the first device that libvirt does not know of. libvirt fills slots from
	// 1 on, eight root ports in each, and QEMU's own chipset has the last one.
	firstSlot = 0x10
	lastSlot  = 0x1e
	// watchdogSlot is the slot on pcie.0 of the watchdog, which the agent looks for there.
	watchdogSlot = 0x0f
)

// emulated is libvirt's type of a domain whose processor is emulated.
const emulated = "qemu"

// Aliases that begin with "ua-" are the user's own and kept by libvirt.
const (
	layerAlias   = "ua-layer-"
	networkAlias = "ua-net-"
)

// platform is what a host offers a domain.
type platform struct {
	// virtType is "kvm" or emulated.
	virtType string
	// hostVSock tells whether the host kernel has vhost-vsock.
	hostVSock bool
	// vsockSocket tells where the vsock daemon of a UUID is reached, for hosts without.
	vsockSocket func(uuid string) vsockFiles
}

// encode writes a definition from the model. Nothing of an earlier definition goes into it.
func (m platform) encode(d Domain) (string, error) {
	d.Emulated = m.virtType == emulated
	metadata, err := embedMetadata(d.Metadata)
	if err != nil {
		return "", err
	}
	kib := uint(d.Memory >> 10)
	domain := libvirtxml.Domain{
		Type:          m.virtType,
		Name:          d.Name,
		UUID:          d.UUID,
		Metadata:      metadata,
		Memory:        &libvirtxml.DomainMemory{Value: kib, Unit: "KiB"},
		CurrentMemory: &libvirtxml.DomainCurrentMemory{Value: kib, Unit: "KiB"},
		VCPU:          &libvirtxml.DomainVCPU{Placement: "static", Value: uint(d.VCPUs)},
		OS: &libvirtxml.DomainOS{
			Type:    &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"},
			Kernel:  d.Kernel,
			Initrd:  d.Initramfs,
			Cmdline: CommandLine(d),
			SMBios:  &libvirtxml.DomainSMBios{Mode: "sysinfo"},
		},
		SysInfo:    sysinfo(d.BootConfig),
		Features:   &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{}, APIC: &libvirtxml.DomainFeatureAPIC{}},
		CPU:        m.cpu(),
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		Devices:    m.devices(d),
	}
	if !m.hostVSock {
		// A vhost-user daemon works on the guest's memory, so it has to be shared.
		domain.MemoryBacking = &libvirtxml.DomainMemoryBacking{
			MemorySource: &libvirtxml.DomainMemorySource{Type: "memfd"},
			MemoryAccess: &libvirtxml.DomainMemoryAccess{Mode: "shared"},
		}
	}
	if domain.QEMUCommandline, err = m.commandline(d); err != nil {
		return "", err
	}
	text, err := domain.Marshal()
	if err != nil {
		return "", fmt.Errorf("write the definition of domain %q: %w", d.Name, err)
	}
	return text, nil
}

// CommandLine is the command line that the domain's kernel is started with.
func CommandLine(d Domain) string {
	given := kernelArgs
	if d.Emulated {
		given += emulatedArgs
	}
	return strings.Join(append([]string{given}, d.KernelArgs...), " ")
}

func (m platform) cpu() *libvirtxml.DomainCPU {
	if m.virtType == "kvm" {
		return &libvirtxml.DomainCPU{Mode: "host-passthrough"}
	}
	return &libvirtxml.DomainCPU{Mode: "maximum"}
}

func sysinfo(bootConfig []byte) []libvirtxml.DomainSysInfo {
	smbios := &libvirtxml.DomainSysInfoSMBIOS{
		System: &libvirtxml.DomainSysInfoSystem{Entry: []libvirtxml.DomainSysInfoEntry{
			{Name: "manufacturer", Value: "sharedos"}, {Name: "product", Value: "Shared OS VM"},
		}},
	}
	if len(bootConfig) > 0 {
		smbios.OEMStrings = &libvirtxml.DomainSysInfoOEMStrings{Entry: []string{agentapi.BootConfigPrefix + string(bootConfig)}}
	}
	return []libvirtxml.DomainSysInfo{{SMBIOS: smbios}}
}

func (m platform) devices(d Domain) *libvirtxml.DomainDeviceList {
	disks := []libvirtxml.DomainDisk{privateDisk(d.PrivateDisk)}
	for i, layer := range d.Layers {
		disks = append(disks, layerDevice(layer, targetName(i+1)))
	}
	devices := &libvirtxml.DomainDeviceList{
		Disks: disks,
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: d.ConsoleLog, Append: "on"}},
		}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio", FreePageReporting: "on"},
		// It resets a VM whose kernel hangs after a kexec, and does nothing before somebody in the guest arms it.
		Watchdogs: []libvirtxml.DomainWatchdog{{Model: "i6300esb", Action: "reset", Address: pciAddress(watchdogSlot)}},
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
	}
	for _, name := range slices.Sorted(maps.Keys(d.Interfaces)) {
		if i := d.Interfaces[name]; i.User == nil {
			devices.Interfaces = append(devices.Interfaces, networkInterface(d.UUID, name, i))
		}
	}
	if m.hostVSock {
		devices.VSock = &libvirtxml.DomainVSock{Model: "virtio", CID: &libvirtxml.DomainVSockCID{Auto: "yes"}}
	}
	const others = 3 // balloon, random numbers, vsock
	devices.Controllers = controllers(len(disks) + len(devices.Interfaces) + others + sparePorts)
	return devices
}

// pciAddress is a slot on the root bus.
func pciAddress(slot uint) *libvirtxml.DomainAddress {
	var none uint
	return &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{Domain: &none, Bus: &none, Slot: &slot, Function: &none}}
}

// controllers are a PCIe root with so many ports, each of which takes one device, also of a running domain.
func controllers(ports int) []libvirtxml.DomainController {
	index := func(i int) *uint { u := uint(i); return &u }
	all := []libvirtxml.DomainController{
		{Type: "usb", Model: "none", Index: index(0)},
		{Type: "pci", Model: "pcie-root", Index: index(0)},
	}
	for i := range ports {
		all = append(all, libvirtxml.DomainController{Type: "pci", Model: "pcie-root-port", Index: index(i + 1)})
	}
	return all
}

// IsDevice reports whether a volume with this path is a block device. Linux keeps nothing else in /dev, but for the files
// of shared memory.
func IsDevice(path string) bool {
	return strings.HasPrefix(path, "/dev/") && !strings.HasPrefix(path, "/dev/shm/")
}

func diskSource(path string) *libvirtxml.DomainDiskSource {
	if IsDevice(path) {
		return &libvirtxml.DomainDiskSource{Block: &libvirtxml.DomainDiskSourceBlock{Dev: path}}
	}
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
}

// privateDisk gives back to the host what the guest discards or overwrites with zeros.
func privateDisk(path string) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device: "disk",
		Driver: &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw", Cache: "none", Discard: "unmap", DetectZeros: "unmap"},
		Source: diskSource(path),
		Target: &libvirtxml.DomainDiskTarget{Dev: targetName(0), Bus: "virtio"},
		Serial: agentapi.PrivateDiskSerial,
	}
}

// layerDevice is read through the host's page cache, where one copy serves every VM.
func layerDevice(layer LayerDevice, target string) libvirtxml.DomainDisk {
	return libvirtxml.DomainDisk{
		Device:    "disk",
		Driver:    &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw", Cache: "writeback"},
		Source:    diskSource(layer.Path),
		Target:    &libvirtxml.DomainDiskTarget{Dev: target, Bus: "virtio"},
		ReadOnly:  &libvirtxml.DomainDiskReadOnly{},
		Shareable: &libvirtxml.DomainDiskShareable{},
		Serial:    LayerSerial(layer.ID),
		Alias:     &libvirtxml.DomainAlias{Name: aliasOf(layer.ID)},
	}
}

// aliasOf holds the whole id, for which the serial has no room.
func aliasOf(id tree.Digest) string { return layerAlias + id.Hex() }

// layerOf is the reverse of aliasOf.
func layerOf(alias *libvirtxml.DomainAlias) (tree.Digest, bool) {
	var id tree.Digest
	if alias == nil {
		return id, false
	}
	digits, ok := strings.CutPrefix(alias.Name, layerAlias)
	if !ok || len(digits) != 2*len(id) {
		return id, false
	}
	_, err := hex.Decode(id[:], []byte(digits))
	return id, err == nil
}

// targetName names the i-th disk as Linux would: vda to vdz, vdaa and on.
func targetName(i int) string {
	name := ""
	for i++; i > 0; i = (i - 1) / 26 {
		name = string(rune('a'+(i-1)%26)) + name
	}
	return "vd" + name
}

func networkInterface(uuid, name string, i Interface) libvirtxml.DomainInterface {
	source := &libvirtxml.DomainInterfaceSource{Bridge: &libvirtxml.DomainInterfaceSourceBridge{Bridge: i.Bridge}}
	if i.Network != "" {
		source = &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: i.Network}}
	}
	return libvirtxml.DomainInterface{
		MAC:    &libvirtxml.DomainInterfaceMAC{Address: macOf(uuid, name, i)},
		Source: source,
		Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
		ROM:    &libvirtxml.DomainROM{Enabled: "no"},
		Alias:  &libvirtxml.DomainAlias{Name: networkAlias + name},
	}
}

func macOf(uuid, name string, i Interface) string {
	if i.MAC != "" {
		return i.MAC
	}
	return MAC(uuid, name)
}

// commandline has what libvirt has no element for: vhost-user vsock, and user-mode networking with forwards by
// QEMU itself (libvirt's own forwards need passt).
func (m platform) commandline(d Domain) (*libvirtxml.DomainQEMUCommandline, error) {
	var args []string
	slot := firstSlot
	if !m.hostVSock {
		args = append(args,
			"-chardev", "socket,id=sharedos-vsock,path="+escapeOption(m.vsockSocket(d.UUID).vhost),
			"-device", fmt.Sprintf("vhost-user-vsock-pci,id="+vsockDevice+",chardev=sharedos-vsock,disable-legacy=on,bus=pcie.0,addr=0x%x", slot))
	}
	for _, name := range slices.Sorted(maps.Keys(d.Interfaces)) {
		i := d.Interfaces[name]
		if i.User == nil {
			continue
		}
		if slot++; slot > lastSlot {
			return nil, fmt.Errorf("domain %q: more than %d interfaces on user networks", d.Name, lastSlot-firstSlot)
		}
		netdev := "user,id=" + networkAlias + name
		for _, host := range slices.Sorted(maps.Keys(i.User.Forwards)) {
			netdev += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", host, i.User.Forwards[host])
		}
		args = append(args,
			"-netdev", netdev,
			"-device", fmt.Sprintf("virtio-net-pci,id=%[1]s-nic,netdev=%[1]s,mac=%[2]s,romfile=,bus=pcie.0,addr=0x%[3]x",
				networkAlias+name, macOf(d.UUID, name, i), slot))
	}
	if len(args) == 0 {
		return nil, nil
	}
	commandline := &libvirtxml.DomainQEMUCommandline{}
	for _, arg := range args {
		commandline.Args = append(commandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: arg})
	}
	return commandline, nil
}

// escapeOption writes a value of a QEMU option, in which a comma ends it unless it is doubled.
func escapeOption(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// parseForward reads one hostfwd as commandline writes it.
func parseForward(text string) (host, guest uint16, ok bool) {
	rest, ok := strings.CutPrefix(text, "hostfwd=tcp:127.0.0.1:")
	if !ok {
		return 0, 0, false
	}
	from, to, ok := strings.Cut(rest, "-:")
	if !ok {
		return 0, 0, false
	}
	h, errHost := strconv.ParseUint(from, 10, 16)
	g, errGuest := strconv.ParseUint(to, 10, 16)
	return uint16(h), uint16(g), errHost == nil && errGuest == nil
}

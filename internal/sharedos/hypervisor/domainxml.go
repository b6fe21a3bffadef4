package hypervisor

import (
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

const (
	// kernelArgs are passed to every kernel: the console goes to ConsoleLog, and a panic reboots the guest.
	kernelArgs = "console=ttyS0 quiet panic=10"
	// emulatedArgs are passed to the kernel of an emulated domain, too. An emulated processor does not speculate,
	// and Linux's mitigations (retpolines, stuffed return buffers) take a sixth of the time of its system calls.
	emulatedArgs = " mitigations=off"
)

// slowEmulated are features that an emulated processor is not to offer. With them Linux and libc
// clear and copy memory by "rep stosb" and "rep movsb", which QEMU's emulator runs byte by byte.
// Without them a boot takes a quarter less of the host's processor time.
var slowEmulated = []string{"erms", "fsrm"}

// arch is of all domains.
const arch = "x86_64"

// watchdogModel is the watchdog of all domains.
const watchdogModel = "i6300esb"

// emulated is libvirt's type of a domain whose processor is emulated.
const emulated = "qemu"

// platform is what a host offers to domains.
type platform struct {
	// virtType is "kvm" or emulated.
	virtType string
	// hostVSock is true if the kernel of the host has vhost-vsock.
	hostVSock bool
	// qemuUser is the number of the user that QEMU runs as.
	qemuUser int
	// vsockSocket returns the files of the vsock daemon of a UUID, for hosts without vhost-vsock.
	vsockSocket func(uuid string) vsockFiles
}

// encode writes a definition from the model alone.
func (p platform) encode(d Domain) (string, error) { return p.encodeAs(d, func(*libvirtxml.Domain) {}) }

// encodeAs is encode, with a change that is made before the patches of the domain are applied.
func (p platform) encodeAs(d Domain, change func(*libvirtxml.Domain)) (string, error) {
	d.Emulated = p.virtType == emulated
	metadata, err := embedMetadata(d.Metadata, d.Foreign...)
	if err != nil {
		return "", err
	}
	domain := libvirtxml.Domain{
		Type:        p.virtType,
		Name:        d.Name,
		UUID:        d.UUID,
		Title:       d.Title,
		Description: d.Description,
		Metadata:    metadata,
		OS: &libvirtxml.DomainOS{
			Type:    &libvirtxml.DomainOSType{Arch: arch, Machine: MachineQ35, Type: "hvm"},
			Kernel:  d.Kernel,
			Initrd:  d.Initramfs,
			Cmdline: CommandLine(d),
			SMBios:  &libvirtxml.DomainSMBios{Mode: "sysinfo"},
		},
		SysInfo: sysinfo(d.BootConfig),
		Features: &libvirtxml.DomainFeatureList{ACPI: &libvirtxml.DomainFeature{},
			APIC: &libvirtxml.DomainFeatureAPIC{}},
		CPU:        p.cpu(),
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
	}
	if domain.Devices, err = p.devices(d); err != nil {
		return "", err
	}
	encodeCompute(&domain, d)
	if !p.hostVSock {
		// A vhost-user daemon works on the guest's memory, so it has to be shared.
		shareMemory(&domain)
	}
	if err := encodeHardware(&domain, d.Hardware); err != nil {
		return "", err
	}
	if domain.QEMUCommandline, err = p.commandline(d); err != nil {
		return "", err
	}
	change(&domain)
	if len(d.Hardware.Patches) > 0 {
		return patched(domain, d.Hardware.Patches)
	}
	text, err := domain.Marshal()
	if err != nil {
		return "", fmt.Errorf("write the definition of domain %q: %w", d.Name, err)
	}
	return text, nil
}

// CommandLine is the kernel command line of a domain.
func CommandLine(d Domain) string {
	args := kernelArgs
	if d.Emulated {
		args += emulatedArgs
	}
	return strings.Join(append([]string{args}, d.KernelArgs...), " ")
}

func (p platform) cpu() *libvirtxml.DomainCPU {
	if p.virtType == "kvm" {
		return &libvirtxml.DomainCPU{Mode: "host-passthrough"}
	}
	cpu := &libvirtxml.DomainCPU{Mode: "maximum"}
	for _, feature := range slowEmulated {
		cpu.Features = append(cpu.Features, libvirtxml.DomainCPUFeature{Policy: "disable", Name: feature})
	}
	return cpu
}

func sysinfo(bootConfig []byte) []libvirtxml.DomainSysInfo {
	smbios := &libvirtxml.DomainSysInfoSMBIOS{
		System: &libvirtxml.DomainSysInfoSystem{Entry: []libvirtxml.DomainSysInfoEntry{
			{Name: "manufacturer", Value: "sharedos"}, {Name: "product", Value: "Shared OS VM"},
		}},
	}
	if len(bootConfig) > 0 {
		smbios.OEMStrings = &libvirtxml.DomainSysInfoOEMStrings{Entry: []string{agentapi.BootConfigPrefix +
			string(bootConfig)}}
	}
	return []libvirtxml.DomainSysInfo{{SMBIOS: smbios}}
}

func (p platform) devices(d Domain) (*libvirtxml.DomainDeviceList, error) {
	devices := &libvirtxml.DomainDeviceList{
		Serials: []libvirtxml.DomainSerial{{
			Source: &libvirtxml.DomainChardevSource{File: &libvirtxml.DomainChardevSourceFile{Path: d.ConsoleLog,
				Append: "on"}},
		}},
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio", FreePageReporting: "on"},
		// It resets a VM whose kernel hangs after a kexec. It does nothing until the guest arms it.
		Watchdogs: []libvirtxml.DomainWatchdog{{Model: watchdogModel, Action: "reset",
			Address: pciAddress(watchdogSlot)}},
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: RandomSources[0]}},
		}},
	}
	var err error
	if devices.Disks, err = d.disks(); err != nil {
		return nil, err
	}
	if devices.Interfaces, err = networkInterfaces(d); err != nil {
		return nil, err
	}
	foreign, err := addForeignDevices(devices, d.ForeignDevices)
	if err != nil {
		return nil, fmt.Errorf("domain %q: %w", d.Name, err)
	}
	if foreign > 0 {
		foreign++ // for the controller that some of them need
	}
	// Each of these takes a port, as do the balloon and the random number generator.
	ports := len(devices.Disks) + len(devices.Interfaces) + 2 + d.Hardware.ports() + foreign
	if p.hostVSock {
		devices.VSock = &libvirtxml.DomainVSock{Model: "virtio", CID: &libvirtxml.DomainVSockCID{Auto: "yes"}}
		ports++
	}
	devices.Controllers = controllers(ports + SpareLayers + SpareDisks)
	return devices, nil
}

// decode reads a definition back into the model, including what somebody changed by hand.
func decode(domain *libvirtxml.Domain) (Domain, error) {
	d := Domain{
		Name: domain.Name, UUID: domain.UUID, Emulated: domain.Type == emulated, Title: domain.Title,
		Description: domain.Description,
		Foreign:     foreignElements(domain.Metadata),
	}
	var err error
	if d.Metadata, err = decodeMetadata(domain); err != nil {
		return Domain{}, err
	}
	if err := d.decodeCompute(domain); err != nil {
		return Domain{}, fmt.Errorf("domain %q: memory: %w", d.Name, err)
	}
	if domain.OS != nil {
		d.Kernel, d.Initramfs = domain.OS.Kernel, domain.OS.Initrd
		rest, _ := strings.CutPrefix(domain.OS.Cmdline, kernelArgs)
		if d.Emulated {
			rest, _ = strings.CutPrefix(rest, emulatedArgs)
		}
		d.KernelArgs = strings.Fields(rest)
	}
	d.BootConfig = bootConfigOf(domain)
	if domain.Devices != nil {
		d.Layers = layersOf(domain)
		d.PrivateDisk = privateDiskOf(domain.Devices)
		d.ConsoleLog = consoleLogOf(domain.Devices)
		if err := errors.Join(d.decodeInterfaces(domain.Devices), d.decodeDisks(domain.Devices)); err != nil {
			return Domain{}, err
		}
	}
	if err := d.decodeHardware(domain); err != nil {
		return Domain{}, err
	}
	if domain.Devices != nil {
		if d.ForeignDevices, err = foreignDevices(domain.Devices, d.Hardware.Patches); err != nil {
			return Domain{}, fmt.Errorf("domain %q: %w", d.Name, err)
		}
	}
	if domain.QEMUCommandline != nil {
		d.decodeUserNetworks(domain.QEMUCommandline)
	}
	return d, nil
}

func bootConfigOf(domain *libvirtxml.Domain) []byte {
	for _, info := range domain.SysInfo {
		if info.SMBIOS == nil || info.SMBIOS.OEMStrings == nil {
			continue
		}
		for _, entry := range info.SMBIOS.OEMStrings.Entry {
			if config, ok := strings.CutPrefix(entry, agentapi.BootConfigPrefix); ok {
				return []byte(config)
			}
		}
	}
	return nil
}

func consoleLogOf(devices *libvirtxml.DomainDeviceList) string {
	for _, serial := range devices.Serials {
		if serial.Source != nil && serial.Source.File != nil {
			return serial.Source.File.Path
		}
	}
	return ""
}

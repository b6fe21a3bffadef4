package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Attributes of hardware, as a Problem names them.
const (
	AttributeMachine       = "machine"
	AttributeCPU           = "cpu"
	AttributeMemoryBacking = "memory_backing"
	AttributeTPM           = "tpm"
	AttributeGraphics      = "graphics"
	AttributeWatchdog      = "watchdog"
	AttributeRNG           = "rng"
	AttributeDirectories   = "host_directories"
	AttributeDevices       = "host_devices"
	AttributePatches       = "xml_patch"
)

// hardwareParts are the parts of hypervisor.Hardware that a domain gets when it starts.
var hardwareParts = []struct {
	attribute string
	reason    Reason
	// of is the part, for comparisons. only is hardware with nothing but this part.
	of   func(hypervisor.Hardware) any
	only func(hypervisor.Hardware) hypervisor.Hardware
	// next is what to do if libvirt does not accept it.
	next string
}{
	{
		AttributeMachine, ReasonMachine,
		func(h hypervisor.Hardware) any { return h.Machine },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{Machine: h.Machine} },
		"Choose a machine that QEMU on this host has (qemu-system-x86_64 -machine help), or leave machine out.",
	},
	{
		AttributeCPU, ReasonCPU,
		func(h hypervisor.Hardware) any { return h.CPU },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{CPU: h.CPU} },
		"Choose another model or topology, or leave cpu out.",
	},
	{
		AttributeMemoryBacking, ReasonMemoryBacking,
		func(h hypervisor.Hardware) any { return h.Memory },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{Memory: h.Memory} },
		"Choose a size of pages and NUMA nodes that the host has (virsh freepages --all; virsh capabilities), or leave memory_backing out.",
	},
	{
		AttributeTPM, ReasonTPM,
		func(h hypervisor.Hardware) any { return h.TPM },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{TPM: h.TPM} },
		"Install the TPM emulator on the host (on Debian: apt-get install swtpm swtpm-tools), or leave tpm out.",
	},
	{
		AttributeGraphics, ReasonGraphics,
		func(h hypervisor.Hardware) any { return h.Graphics },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{Graphics: h.Graphics} },
		"Choose another type or video, install what QEMU lacks for it, or leave graphics out.",
	},
	{
		AttributeWatchdog, ReasonWatchdog,
		func(h hypervisor.Hardware) any { return h.Watchdog },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{Watchdog: h.Watchdog} },
		"Choose another action.",
	},
	{
		AttributeRNG, ReasonRNG,
		func(h hypervisor.Hardware) any { return h.Random },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{Random: h.Random} },
		"Choose another source.",
	},
	{
		AttributeDirectories, ReasonDirectories,
		func(h hypervisor.Hardware) any { return h.Directories },
		func(h hypervisor.Hardware) hypervisor.Hardware {
			return hypervisor.Hardware{Directories: h.Directories}
		},
		"Install virtiofsd on the host (on Debian: apt-get install virtiofsd), or leave host_directories out.",
	},
	{
		AttributeDevices, ReasonDevices,
		func(h hypervisor.Hardware) any { return h.Devices },
		func(h hypervisor.Hardware) hypervisor.Hardware { return hypervisor.Hardware{Devices: h.Devices} },
		"Devices of PCI need an IOMMU: switch it on in the firmware and in the kernel of the host (on Intel: intel_iommu=on), or leave host_devices out.",
	},
	{
		AttributePatches, ReasonPatches,
		func(h hypervisor.Hardware) any { return h.Patches },
		func(h hypervisor.Hardware) hypervisor.Hardware { return h }, // patches are for a whole definition
		"Correct xml_patch. `virsh dumpxml --inactive` shows the definition of a VM that exists.",
	},
}

// HardwareChanges lists the differences in hardware that a running domain cannot take on.
func HardwareChanges(have, want hypervisor.Hardware) []Reason {
	var reasons []Reason
	have, want = have.AtStart(), want.AtStart()
	for _, part := range hardwareParts {
		if !reflect.DeepEqual(part.of(have), part.of(want)) {
			reasons = append(reasons, part.reason)
		}
	}
	return reasons
}

// patchFaults are the patches that somebody has taken from a definition.
func patchFaults(domain hypervisor.Domain) (faults []Fault) {
	for _, i := range domain.LostPatches {
		patch := domain.Hardware.Patches[i]
		faults = append(faults, Fault{fmt.Sprintf("%s %d", AttributePatches, i+1), fmt.Sprintf(
			"the definition of the VM is no longer as it says (%s %s); the next apply defines it again",
			patch.Op, patch.Path), true})
	}
	return faults
}

// hardware checks what the host has for the hardware. libvirt is asked about each part that
// differs, and about patches always: they depend on the whole definition.
func (p *preflight) hardware(ctx context.Context) error {
	want, have := p.Want.Hardware, hypervisor.Hardware{}
	if p.Have != nil {
		have = p.Have.Hardware
	}
	most := func(s *Spec) int { return max(s.VCPUs, s.MaxVCPUs) }
	refused, none := len(p.found), hypervisor.Hardware{}
	for _, part := range hardwareParts {
		differs := p.Have == nil || p.starts() || !reflect.DeepEqual(part.of(want.AtStart()), part.of(have.AtStart()))
		switch part.attribute {
		case AttributeCPU:
			differs = differs || p.Have != nil && most(p.Have) != most(&p.Want)
		case AttributeMemoryBacking:
			differs = differs ||
				p.Have != nil && max(p.Have.Memory, p.Have.MaxMemory) < max(p.Want.Memory, p.Want.MaxMemory)
		case AttributePatches:
			if differs = len(want.Patches) > 0; len(p.found) > refused {
				return nil // libvirt would refuse the definition for another reason
			}
		}
		if !differs || reflect.DeepEqual(part.of(want), part.of(none)) {
			continue
		}
		before := len(p.found)
		if err := p.ofHost(ctx, part.attribute, want); err != nil {
			return err
		}
		if len(p.found) > before {
			continue
		}
		if err := p.accepted(ctx, part.attribute, part.next, part.only(want)); err != nil {
			return err
		}
	}
	return nil
}

// accepted asks libvirt about a domain with hardware.
func (p *preflight) accepted(ctx context.Context, attribute, next string, hardware hypervisor.Hardware) error {
	domain := p.sample()
	if len(hardware.Patches) > 0 { // which may be about them
		domain.Interfaces = p.Want.Interfaces
	}
	if len(hardware.Patches) > 0 && p.cannotTryPatches(hardware) {
		return nil
	}
	domain.Give(hardware)
	err := p.fleet.Hypervisor.Accepts(ctx, domain)
	var patch *hypervisor.PatchError
	switch {
	case errors.As(err, &patch):
		p.refuse(next, patch.Err, attribute, fmt.Sprint(patch.Index))
		return nil
	case errors.Is(err, hypervisor.ErrRefused):
		p.refuse(next, err, attribute)
		return nil
	}
	return err
}

// cannotTryPatches reports whether patches may be about what the sample lacks: interfaces that are not known yet, and
// devices of USB, which libvirt looks for when it starts a domain. Then the apply finds out.
func (p *preflight) cannotTryPatches(hardware hypervisor.Hardware) bool {
	for _, device := range hardware.Devices {
		if device.USB != "" {
			return true
		}
	}
	return p.Want.Interfaces == nil && slices.ContainsFunc(hardware.Patches, func(patch hypervisor.Patch) bool {
		return strings.Contains(patch.Path, "interface")
	})
}

// sample is a domain as the VM would be, with files that nobody looks at.
func (p *preflight) sample() hypervisor.Domain {
	domain := hypervisor.Domain{
		Name: cmp.Or(p.Want.Name, "sample"), UUID: "00000000-0000-4000-8000-000000000001", VCPUs: p.Want.VCPUs,
		MaxVCPUs: p.Want.MaxVCPUs,
		Memory:   cmp.Or(p.Want.Memory, minMemory), MaxMemory: p.Want.MaxMemory,
		Kernel: "/kernel", Initramfs: "/initramfs", PrivateDisk: "/disk", ConsoleLog: "/log",
	}
	if cpu := p.Want.Hardware.CPU; domain.VCPUs == 0 { // not known yet
		domain.VCPUs = max(1, max(cpu.Sockets, 1)*max(cpu.Cores, 1)*max(cpu.Threads, 1))
		for vcpu := range cpu.Pins {
			domain.VCPUs = max(domain.VCPUs, vcpu+1)
		}
	}
	return domain
}

// minMemory is the memory in bytes of a VM of which it is not known yet.
const minMemory = 128 << 20

// ofHost checks what libvirt does not say, or not in time.
func (p *preflight) ofHost(ctx context.Context, attribute string, want hypervisor.Hardware) error {
	switch attribute {
	case AttributeCPU:
		return p.processor(ctx, want.CPU)
	case AttributeMemoryBacking:
		return p.pages(ctx, want.Memory.HugePages)
	case AttributeDirectories:
		for _, tag := range slices.Sorted(maps.Keys(want.Directories)) {
			directory := want.Directories[tag]
			there, err := p.fleet.Machine.Exists(ctx, directory.Path)
			if err != nil {
				return err
			}
			if !there {
				p.refuse("Create it on the host, or correct the path.",
					fmt.Errorf("the host has no directory %s", directory.Path), attribute, tag, "path")
			}
		}
	case AttributeGraphics:
		var has *hypervisor.Graphics
		if p.Have != nil && p.Have.Running {
			has = p.Have.Hardware.Graphics
		}
		if want.Graphics.Port == 0 || has != nil && has.Port == want.Graphics.Port {
			return nil
		}
		free, err := p.fleet.Machine.PortFree(ctx, uint16(want.Graphics.Port)) //nolint:gosec // Check bounds it
		if err != nil {
			return err
		}
		if !free {
			p.refuse("Choose another port, or leave port out: libvirt then chooses one.",
				fmt.Errorf("port %d of the host is in use", want.Graphics.Port), attribute, "port")
		}
	case AttributeDevices:
		for _, name := range slices.Sorted(maps.Keys(want.Devices)) {
			device := want.Devices[name]
			there, err := p.fleet.Hypervisor.HasDevice(ctx, device)
			if err != nil {
				return err
			}
			if !there {
				kind, address := "pci", device.PCI
				if address == "" {
					kind, address = "usb", device.USB
				}
				p.refuse("Correct it: `virsh nodedev-list --cap "+
					map[string]string{"pci": "pci", "usb": "usb_device"}[kind]+"` lists what the host has.",
					fmt.Errorf("the host has no device %s", address), attribute, name, kind)
			}
		}
	}
	return nil
}

func (p *preflight) processor(ctx context.Context, want hypervisor.CPU) error {
	if want.Model != "" {
		models, err := p.fleet.Hypervisor.CPUModels(ctx)
		if err != nil {
			return err
		}
		if len(models) > 0 && !slices.Contains(models, want.Model) {
			p.refuse("Choose one of: "+strings.Join(models, ", ")+".",
				fmt.Errorf("QEMU on this host cannot offer a processor of the model %q", want.Model), AttributeCPU,
				"model")
		}
	}
	if len(want.Pins) == 0 {
		return nil
	}
	limits, err := p.fleet.Hypervisor.Limits(ctx)
	if err == nil && limits.Emulated {
		p.refuse("Leave cpu.pinning out on this host.",
			errors.New("the host has no KVM, and libvirt does not pin processors that QEMU emulates"), AttributeCPU,
			"pinning")
	}
	return err
}

// pages checks that the host has enough free huge pages. Those that the VM holds already are free
// when it is powered off.
func (p *preflight) pages(ctx context.Context, size int64) error {
	bytes := max(p.Want.Memory, p.Want.MaxMemory)
	if size == 0 || bytes == 0 {
		return nil
	}
	if bytes%size != 0 {
		p.refuse("Make memory and max_memory a multiple of the size of a page, or choose smaller pages.",
			fmt.Errorf("%d MiB of memory are no whole number of pages of %d KiB", bytes>>20, size>>10),
			AttributeMemoryBacking, "huge_page_size")
		return nil
	}
	free, err := p.fleet.Hypervisor.FreePages(ctx, size)
	if err != nil {
		return err
	}
	if p.Have != nil && p.Have.Running && p.Have.Hardware.Memory.HugePages == size {
		free += max(p.Have.Memory, p.Have.MaxMemory) / size
	}
	if need := bytes / size; p.Want.Running && free < need {
		p.refuse(
			fmt.Sprintf(
				"Reserve more of them on the host, such as with: virsh allocpages --pagesize %d --pagecount %d --add",
				size>>10, need-free),
			fmt.Errorf("the VM needs %d pages of %d KiB, and %d of them are free on the host", need, size>>10, free),
			AttributeMemoryBacking, "huge_page_size")
	}
	return nil
}

package hypervisor

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrRefused means that the host cannot run a domain with this hardware: libvirt refuses its
// definition, or its parts contradict each other.
var ErrRefused = errors.New("a VM cannot have this hardware on this host")

// Hardware is what a domain has beside the number of its processors, its memory, disks and
// interfaces. The zero value is what a domain has of which nothing is said.
type Hardware struct {
	// Machine is the machine type, MachineQ35 or a version of it such as "pc-q35-9.2"; "" is MachineQ35.
	// libvirt reads that one as the newest version that it has whenever the domain is defined.
	Machine string `json:",omitempty"`
	CPU     CPU    `json:",omitzero"`
	// Memory is how the host backs the memory.
	Memory MemoryBacking `json:",omitzero"`
	// TPM is the model of an emulated TPM 2.0, "tpm-crb" or "tpm-tis"; "" is none.
	TPM string `json:",omitempty"`
	// Graphics is a graphical console; nil if there is none.
	Graphics *Graphics `json:",omitempty"`
	// Watchdog is what happens when the watchdog expires: one of WatchdogActions; "" is the first of them.
	Watchdog string `json:",omitempty"`
	Random   Random `json:",omitzero"`
	// Directories of the host by the tags under which the guest mounts them.
	Directories map[string]Directory `json:",omitempty"`
	// Devices of the host by the names that the user gave them.
	Devices map[string]HostDevice `json:",omitempty"`
	// Patches are applied to the definition, in this order.
	Patches []Patch `json:",omitempty"`
}

// CPU is the processor of a domain.
type CPU struct {
	// Model is CPUHostPassthrough, CPUHostModel, CPUMaximum or the name of a model of libvirt's. ""
	// is CPUHostPassthrough with KVM, and otherwise CPUMaximum.
	Model string `json:",omitempty"`
	// Sockets, Cores and Threads are the topology: all are 0, or their product is the largest
	// number of processors, where 0 counts as 1.
	Sockets int `json:",omitempty"`
	Cores   int `json:",omitempty"`
	Threads int `json:",omitempty"`
	// Pins are the processors of the host that a processor of the domain may run on, as Processors writes them.
	Pins map[int]string `json:",omitempty"`
	// Shares weigh the time that the domain gets against that of others, MinShares to MaxShares; 0
	// is the host's default.
	Shares int `json:",omitempty"`
}

// Models of a processor that are none of libvirt's named ones.
const (
	CPUHostPassthrough = "host-passthrough"
	CPUHostModel       = "host-model"
	CPUMaximum         = "maximum"
)

// MinShares and MaxShares bound CPU.Shares: cpu.weight of cgroup v2, which libvirt sets to it.
const (
	MinShares = 2
	MaxShares = 10_000
)

// MemoryBacking is how the host backs the memory of a domain.
type MemoryBacking struct {
	// HugePages is the size of the host's pages in bytes; 0 is its usual size.
	HugePages int64 `json:",omitempty"`
	// Nodes are NUMA nodes of the host, as Processors writes numbers; "" is any. Mode is one of
	// NUMAModes; "" is the first of them, and the only one without Nodes.
	Nodes string `json:",omitempty"`
	Mode  string `json:",omitempty"`
}

// NUMAModes are how strictly memory comes from the nodes. The first one is the default.
var NUMAModes = []string{"strict", "preferred", "interleave", "restrictive"}

// TPMModels are the models of a TPM.
var TPMModels = []string{"tpm-crb", "tpm-tis"}

// Graphics is a graphical console of a domain.
type Graphics struct {
	// Type is one of GraphicsTypes; "" is the first of them.
	Type string `json:",omitempty"`
	// Listen is the address on the host; "" is 127.0.0.1. It is empty if Socket is set, an absolute
	// path of a unix socket.
	Listen string `json:",omitempty"`
	Socket string `json:",omitempty"`
	// Port on Listen; 0 lets libvirt choose one at each start.
	Port int `json:",omitempty"`
	// Video is the model of the graphics card, one of VideoModels; "" is the first of them.
	Video string `json:",omitempty"`
}

// graphicsListen is where graphics listen unless something else is said.
const graphicsListen = "127.0.0.1"

// GraphicsTypes and VideoModels are what a graphical console can be and show.
var (
	GraphicsTypes = []string{"vnc", "spice"}
	VideoModels   = []string{"vga", "virtio", "bochs"}
)

// WatchdogActions are what can happen when the guest no longer answers the watchdog. The first one is the default.
var WatchdogActions = []string{"reset", "poweroff", "shutdown", "pause", "none", "inject-nmi"}

// Random is where the random number generator of a domain takes its numbers from.
type Random struct {
	// Source is a device of the host, one of RandomSources; "" is the first of them.
	Source string `json:",omitempty"`
	// BytesPerSecond bounds what the guest gets; 0 is no bound.
	BytesPerSecond int `json:",omitempty"`
}

// RandomSources are devices of the host that QEMU may read random numbers from. The first one is the default.
var RandomSources = []string{"/dev/urandom", "/dev/random", "/dev/hwrng"}

// Directory is a directory of the host that a domain gets by virtiofs.
type Directory struct {
	// Path is absolute.
	Path     string
	ReadOnly bool `json:",omitempty"`
}

// HostDevice is a device of the host that a domain gets. It has either a PCI or a USB address.
type HostDevice struct {
	// PCI is an address, "0000:01:00.0".
	PCI string `json:",omitempty"`
	// USB is the vendor and the product, "1d6b:0002".
	USB string `json:",omitempty"`
}

// IsZero reports whether nothing is said about the hardware.
func (h Hardware) IsZero() bool {
	return h.Machine == "" && h.CPU.isZero() && h.Memory == (MemoryBacking{}) && h.TPM == "" && h.Graphics == nil &&
		h.Watchdog == "" && h.Random == (Random{}) &&
		len(h.Directories)+len(h.Devices)+len(h.Patches) == 0
}

// IsZero makes a CPU of which nothing is said absent from records.
func (c CPU) IsZero() bool { return c.isZero() }

// topology is the topology with 1 for what is not said, unless nothing is said about it.
func (c CPU) topology() (sockets, cores, threads int) {
	if c.Sockets == 0 && c.Cores == 0 && c.Threads == 0 {
		return 0, 0, 0
	}
	return cmp.Or(c.Sockets, 1), cmp.Or(c.Cores, 1), cmp.Or(c.Threads, 1)
}

func (c CPU) isZero() bool {
	return c.Model == "" && c.Sockets == 0 && c.Cores == 0 && c.Threads == 0 && len(c.Pins) == 0 && c.Shares == 0
}

// AtStart is the hardware as QEMU gets it when the domain starts: two that are equal do not differ for
// the guest. Only the model of the processor stays as it is said, since its default depends on the host.
func (h Hardware) AtStart() Hardware {
	h = h.clone()
	unless := func(value *string, usual string) {
		if *value == usual {
			*value = ""
		}
	}
	unless(&h.Machine, MachineQ35)
	unless(&h.Watchdog, WatchdogActions[0])
	unless(&h.Random.Source, RandomSources[0])
	unless(&h.Memory.Mode, NUMAModes[0])
	if h.Graphics != nil {
		unless(&h.Graphics.Type, GraphicsTypes[0])
		unless(&h.Graphics.Listen, graphicsListen)
		unless(&h.Graphics.Video, VideoModels[0])
	}
	h.CPU.Shares = 0
	h.CPU.Sockets, h.CPU.Cores, h.CPU.Threads = h.CPU.topology()
	if len(h.CPU.Pins) == 0 {
		h.CPU.Pins = nil
	}
	if len(h.Directories) == 0 {
		h.Directories = nil
	}
	if len(h.Devices) == 0 {
		h.Devices = nil
	}
	if len(h.Patches) == 0 {
		h.Patches = nil
	}
	return h
}

// defaulted is the hardware with "" for everything that a domain has in any case.
func (h Hardware) defaulted(isEmulated bool) Hardware {
	shares := h.CPU.Shares
	if h = h.AtStart(); h.CPU.Model == defaultModel(isEmulated) {
		h.CPU.Model = ""
	}
	h.CPU.Shares = shares
	return h
}

func defaultModel(isEmulated bool) string {
	if isEmulated {
		return CPUMaximum
	}
	return CPUHostPassthrough
}

// clone shares no map and no slice.
func (h Hardware) clone() Hardware {
	h.CPU.Pins, h.Directories, h.Devices = maps.Clone(h.CPU.Pins), maps.Clone(h.Directories), maps.Clone(h.Devices)
	h.Patches = slices.Clone(h.Patches)
	if h.Graphics != nil {
		graphics := *h.Graphics
		h.Graphics = &graphics
	}
	return h
}

// Give sets the hardware of a domain, and what its record says of it.
func (d *Domain) Give(hardware Hardware) {
	d.Hardware, d.Metadata.Hardware = hardware.clone(), nil
	if !hardware.IsZero() {
		record := hardware.clone()
		d.Metadata.Hardware = &record
	}
}

// MachineQ35 is the machine that this package knows the buses of.
const MachineQ35 = "q35"

var (
	machineVersion = regexp.MustCompile(`^pc-q35-[A-Za-z0-9][A-Za-z0-9.-]{0,40}$`)

	cpuModel   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	pciDevice  = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]$`)
	usbDevice  = regexp.MustCompile(`^[0-9a-f]{4}:[0-9a-f]{4}$`)
	deviceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$`)
)

// CheckCPUModel returns why a text cannot name a model of a processor.
func CheckCPUModel(model string) error {
	if !cpuModel.MatchString(model) {
		return fmt.Errorf("%q is not a name of 1 to 64 letters, digits, _, ., + and -, starting with a letter or digit",
			model)
	}
	return nil
}

// CheckMachine returns why a text is no machine type.
func CheckMachine(text string) error {
	if text != MachineQ35 && !machineVersion.MatchString(text) {
		return fmt.Errorf("%q is neither q35 nor a version of it such as pc-q35-9.2", text)
	}
	return nil
}

// CheckPCI and CheckUSB return why a text is no address of a device.
func CheckPCI(address string) error {
	if !pciDevice.MatchString(address) {
		return fmt.Errorf("%q is not a PCI address such as 0000:01:00.0, in lower case", address)
	}
	return nil
}

// CheckUSB is as CheckPCI.
func CheckUSB(address string) error {
	if !usbDevice.MatchString(address) {
		return fmt.Errorf("%q is not a vendor and a product of USB such as 1d6b:0002, in lower case", address)
	}
	return nil
}

// CheckDeviceName returns why a text cannot name a directory or a device of the host.
func CheckDeviceName(name string) error {
	if !deviceName.MatchString(name) {
		return fmt.Errorf("%q is not a name of 1 to 32 letters, digits, _ and -, starting with a letter or digit", name)
	}
	return nil
}

// maxNumber bounds the numbers of processors and NUMA nodes of a host.
const maxNumber = 4095

// Processors reads a list of numbers, such as "0-3,8", and writes it as libvirt does: sorted, with ranges.
func Processors(text string) (string, error) {
	var set [maxNumber + 1]bool
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		from, err := strconv.ParseUint(first, 10, 16)
		to := from
		if err == nil && isRange {
			to, err = strconv.ParseUint(last, 10, 16)
		}
		if err != nil || from > to || to > maxNumber {
			return "", fmt.Errorf("%q is not a list of numbers from 0 to %d and ranges of them, such as 0-3,8", text,
				maxNumber)
		}
		for n := from; n <= to; n++ {
			set[n] = true
		}
	}
	var parts []string
	for n := 0; n <= maxNumber; n++ {
		if !set[n] {
			continue
		}
		first := n
		for n < maxNumber && set[n+1] {
			n++
		}
		part := strconv.Itoa(first)
		if n > first {
			part += "-" + strconv.Itoa(n)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ","), nil
}

// check calls bad for everything that is wrong with the hardware of a domain with so many processors at most.
func (h Hardware) check(vcpus int, bad func(format string, args ...any)) {
	if h.Machine != "" {
		if err := CheckMachine(h.Machine); err != nil {
			bad("machine: %w", err)
		}
	}
	if h.CPU.Model != "" {
		if err := CheckCPUModel(h.CPU.Model); err != nil {
			bad("model of the processor: %w", err)
		}
	}
	if sockets, cores, threads := h.CPU.topology(); sockets != 0 &&
		(min(sockets, cores, threads) < 1 || max(sockets, cores, threads) > MaxVCPUs ||
			sockets*cores*threads != vcpus) {
		bad("%d sockets with %d cores with %d threads are not %d processors", sockets, cores, threads, vcpus)
	}
	numbers := func(what, text string) {
		if canonical, err := Processors(text); err != nil {
			bad("%s: %w", what, err)
		} else if canonical != text {
			bad("%s: write %q as %q", what, text, canonical)
		}
	}
	for vcpu, pin := range h.CPU.Pins {
		if vcpu < 0 || vcpu >= vcpus {
			bad("processor %d cannot be pinned: there are 0 to %d", vcpu, vcpus-1)
		}
		numbers(fmt.Sprintf("pins of processor %d", vcpu), pin)
	}
	if s := h.CPU.Shares; s != 0 && (s < MinShares || s > MaxShares) {
		bad("%d shares: use %d to %d", s, MinShares, MaxShares)
	}
	if m := h.Memory; m.HugePages < 0 || m.HugePages%1024 != 0 {
		bad("pages of %d bytes: use whole KiB", m.HugePages)
	}
	if m := h.Memory; m.Nodes != "" {
		numbers("NUMA nodes", m.Nodes)
	}
	if m := h.Memory; m.Mode != "" && m.Nodes == "" {
		bad("a NUMA mode needs NUMA nodes")
	}
	oneOf := func(what, value string, allowed []string) {
		if value != "" && !slices.Contains(allowed, value) {
			bad("%s %q: use one of %s", what, value, strings.Join(allowed, ", "))
		}
	}
	oneOf("NUMA mode", h.Memory.Mode, NUMAModes)
	oneOf("TPM", h.TPM, TPMModels)
	oneOf("action of the watchdog", h.Watchdog, WatchdogActions)
	oneOf("source of random numbers", h.Random.Source, RandomSources)
	if h.Random.BytesPerSecond < 0 {
		bad("%d random bytes a second", h.Random.BytesPerSecond)
	}
	if g := h.Graphics; g != nil {
		oneOf("graphics", g.Type, GraphicsTypes)
		oneOf("graphics card", g.Video, VideoModels)
		switch {
		case g.Socket != "" && (g.Listen != "" || g.Port != 0):
			bad("graphics listen on an address or on a socket, and not on both")
		case g.Socket != "":
			if err := checkPath(g.Socket); err != nil {
				bad("socket of the graphics: %w", err)
			}
		default:
			if _, err := netip.ParseAddr(cmp.Or(g.Listen, graphicsListen)); err != nil {
				bad("graphics: %w", err)
			}
		}
		if g.Port < 0 || g.Port > 65535 {
			bad("port %d of the graphics", g.Port)
		}
	}
	for name, directory := range h.Directories {
		if err := errors.Join(CheckDeviceName(name), checkPath(directory.Path)); err != nil {
			bad("directory %q of the host: %w", name, err)
		}
	}
	for name, device := range h.Devices {
		err := CheckDeviceName(name)
		switch {
		case device.PCI != "" && device.USB != "", device.PCI == "" && device.USB == "":
			bad("device %q of the host: give either a PCI or a USB address", name)
		case device.PCI != "":
			err = errors.Join(err, CheckPCI(device.PCI))
		default:
			err = errors.Join(err, CheckUSB(device.USB))
		}
		if err != nil {
			bad("device %q of the host: %w", name, err)
		}
	}
	for i, patch := range h.Patches {
		if err := patch.Check(); err != nil {
			bad("patch %d: %w", i+1, err)
		}
	}
}

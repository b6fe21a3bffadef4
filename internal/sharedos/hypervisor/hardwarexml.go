package hypervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// deviceAlias begins the alias of a device of the host. libvirt keeps aliases that begin with "ua-".
const deviceAlias = "ua-host-"

// encodeHardware writes the hardware into a definition that has everything else.
func encodeHardware(domain *libvirtxml.Domain, h Hardware) error {
	domain.OS.Type.Machine = cmp.Or(h.Machine, MachineQ35)
	encodeCPU(domain, h.CPU)
	encodeMemoryBacking(domain, h)
	devices := domain.Devices
	if h.TPM != "" {
		devices.TPMs = []libvirtxml.DomainTPM{{
			Model: h.TPM, Backend: &libvirtxml.DomainTPMBackend{Emulator: &libvirtxml.DomainTPMBackendEmulator{Version: "2.0"}},
		}}
	}
	if h.Graphics != nil {
		devices.Graphics = []libvirtxml.DomainGraphic{h.Graphics.encode()}
		devices.Videos = []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{Type: cmp.Or(h.Graphics.Video,
			VideoModels[0]), Heads: 1, Primary: "yes"}}}
	}
	if h.Watchdog != "" {
		devices.Watchdogs[0].Action = h.Watchdog
	}
	if h.Random.Source != "" {
		devices.RNGs[0].Backend.Random.Device = h.Random.Source
	}
	if h.Random.BytesPerSecond != 0 {
		devices.RNGs[0].Rate = &libvirtxml.DomainRNGRate{Bytes: uint(h.Random.BytesPerSecond), Period: 1000} //nolint:gosec // Check refuses negative ones
	}
	for _, tag := range slices.Sorted(maps.Keys(h.Directories)) {
		directory := libvirtxml.DomainFilesystem{
			AccessMode: "passthrough",
			Driver:     &libvirtxml.DomainFilesystemDriver{Type: "virtiofs"},
			Source:     &libvirtxml.DomainFilesystemSource{Mount: &libvirtxml.DomainFilesystemSourceMount{Dir: h.Directories[tag].Path}},
			Target:     &libvirtxml.DomainFilesystemTarget{Dir: tag},
		}
		if h.Directories[tag].ReadOnly {
			directory.ReadOnly = &libvirtxml.DomainFilesystemReadOnly{}
		}
		devices.Filesystems = append(devices.Filesystems, directory)
	}
	for _, name := range slices.Sorted(maps.Keys(h.Devices)) {
		device, err := h.Devices[name].encode()
		if err != nil {
			return fmt.Errorf("device %q of the host: %w", name, err)
		}
		device.Alias = &libvirtxml.DomainAlias{Name: deviceAlias + name}
		devices.Hostdevs = append(devices.Hostdevs, device)
		if h.Devices[name].USB != "" {
			// Without a device for it, a domain has no USB.
			for i, controller := range devices.Controllers {
				if controller.Type == "usb" {
					devices.Controllers[i].Model = "qemu-xhci"
				}
			}
		}
	}
	return nil
}

// ports is how many PCIe ports the hardware takes.
func (h Hardware) ports() int {
	ports, usb := len(h.Directories), 0
	for _, device := range h.Devices {
		if device.PCI != "" {
			ports++
		} else {
			usb = 1 // the controller
		}
	}
	if h.Graphics != nil {
		ports++
	}
	return ports + usb
}

func encodeCPU(domain *libvirtxml.Domain, c CPU) {
	switch c.Model {
	case "":
	case CPUHostPassthrough, CPUHostModel, CPUMaximum:
		domain.CPU.Mode = c.Model
	default:
		domain.CPU.Mode, domain.CPU.Match, domain.CPU.Model = "custom", "exact",
			&libvirtxml.DomainCPUModel{Fallback: "forbid", Value: c.Model}
	}
	if sockets, cores, threads := c.topology(); sockets != 0 {
		domain.CPU.Topology = &libvirtxml.DomainCPUTopology{Sockets: sockets, Cores: cores, Threads: threads}
	}
	if c.Shares == 0 && len(c.Pins) == 0 {
		return
	}
	domain.CPUTune = &libvirtxml.DomainCPUTune{}
	if c.Shares != 0 {
		domain.CPUTune.Shares = &libvirtxml.DomainCPUTuneShares{Value: uint(c.Shares)} //nolint:gosec // at most MaxShares
	}
	for _, vcpu := range slices.Sorted(maps.Keys(c.Pins)) {
		domain.CPUTune.VCPUPin = append(domain.CPUTune.VCPUPin, libvirtxml.DomainCPUTuneVCPUPin{VCPU: uint(vcpu), CPUSet: c.Pins[vcpu]}) //nolint:gosec // at most MaxVCPUs
	}
}

func encodeMemoryBacking(domain *libvirtxml.Domain, h Hardware) {
	if h.Memory.Nodes != "" {
		domain.NUMATune = &libvirtxml.DomainNUMATune{Memory: &libvirtxml.DomainNUMATuneMemory{Mode: cmp.Or(
			h.Memory.Mode, NUMAModes[0]), Nodeset: h.Memory.Nodes}}
	}
	if h.Memory.HugePages == 0 && len(h.Directories) == 0 {
		return
	}
	if domain.MemoryBacking == nil {
		domain.MemoryBacking = &libvirtxml.DomainMemoryBacking{}
	}
	if h.Memory.HugePages != 0 {
		domain.MemoryBacking.MemoryHugePages = &libvirtxml.DomainMemoryHugepages{
			Hugepages: []libvirtxml.DomainMemoryHugepage{{Size: uint(h.Memory.HugePages >> 10), Unit: "KiB"}}, //nolint:gosec // Check refuses negative ones
		}
	}
	if len(h.Directories) > 0 { // virtiofsd works on the guest's memory
		shareMemory(domain)
	}
}

// shareMemory makes the memory of a domain one that another process can work on.
func shareMemory(domain *libvirtxml.Domain) {
	if domain.MemoryBacking == nil {
		domain.MemoryBacking = &libvirtxml.DomainMemoryBacking{}
	}
	domain.MemoryBacking.MemorySource = &libvirtxml.DomainMemorySource{Type: "memfd"}
	domain.MemoryBacking.MemoryAccess = &libvirtxml.DomainMemoryAccess{Mode: "shared"}
}

func (g Graphics) encode() libvirtxml.DomainGraphic {
	listen := libvirtxml.DomainGraphicListener{Address: &libvirtxml.DomainGraphicListenerAddress{Address: cmp.Or(
		g.Listen, graphicsListen)}}
	port, auto := g.Port, "no"
	switch {
	case g.Socket != "":
		listen = libvirtxml.DomainGraphicListener{Socket: &libvirtxml.DomainGraphicListenerSocket{Socket: g.Socket}}
		auto = ""
	case port == 0:
		auto = "yes"
	}
	listeners := []libvirtxml.DomainGraphicListener{listen}
	if g.Type == "spice" {
		return libvirtxml.DomainGraphic{Spice: &libvirtxml.DomainGraphicSpice{Port: port,
			AutoPort: auto, Listeners: listeners}}
	}
	return libvirtxml.DomainGraphic{VNC: &libvirtxml.DomainGraphicVNC{Port: port, AutoPort: auto, Listeners: listeners}}
}

func (d HostDevice) encode() (libvirtxml.DomainHostdev, error) {
	if d.USB != "" {
		vendor, product, _ := strings.Cut(d.USB, ":")
		return libvirtxml.DomainHostdev{Managed: "yes",
			SubsysUSB: &libvirtxml.DomainHostdevSubsysUSB{Source: &libvirtxml.DomainHostdevSubsysUSBSource{
				Vendor:  &libvirtxml.DomainHostDevProductVendorID{ID: "0x" + vendor},
				Product: &libvirtxml.DomainHostDevProductVendorID{ID: "0x" + product},
			}}}, nil
	}
	var numbers [4]uint
	for i, part := range strings.FieldsFunc(d.PCI, func(r rune) bool { return r == ':' || r == '.' }) {
		number, err := strconv.ParseUint(part, 16, 16)
		if err != nil || i >= len(numbers) {
			return libvirtxml.DomainHostdev{}, CheckPCI(d.PCI)
		}
		numbers[i] = uint(number)
	}
	return libvirtxml.DomainHostdev{Managed: "yes",
		SubsysPCI: &libvirtxml.DomainHostdevSubsysPCI{Source: &libvirtxml.DomainHostdevSubsysPCISource{
			Address: &libvirtxml.DomainAddressPCI{Domain: &numbers[0], Bus: &numbers[1],
				Slot: &numbers[2], Function: &numbers[3]},
		}}}, nil
}

// decodeHardware reads the hardware of a definition. What the record says in other words stays as it is
// recorded. Patches are always those of the record; LostPatches are those that the definition no longer has.
func (d *Domain) decodeHardware(domain *libvirtxml.Domain) error {
	found := Hardware{CPU: decodeCPU(domain)}
	if numa := domain.NUMATune; numa != nil && numa.Memory != nil {
		found.Memory.Nodes, found.Memory.Mode = numa.Memory.Nodeset, numa.Memory.Mode
	}
	if backing := domain.MemoryBacking; backing != nil && backing.MemoryHugePages != nil &&
		len(backing.MemoryHugePages.Hugepages) > 0 {
		page := backing.MemoryHugePages.Hugepages[0]
		size, err := bytesOf(page.Size, page.Unit)
		if err != nil {
			return fmt.Errorf("domain %q: huge pages: %w", d.Name, err)
		}
		found.Memory.HugePages = size
	}
	if domain.Devices != nil {
		found.decodeDevices(domain.Devices)
	}
	found = found.defaulted(d.Emulated)
	recorded := Hardware{}
	if d.Metadata.Hardware != nil {
		recorded = d.Metadata.Hardware.clone()
	}
	found.Patches = recorded.Patches
	// Every definition has a version, and only one that was asked for has to stay.
	if recorded.Machine != "" && domain.OS != nil && domain.OS.Type != nil {
		if found.Machine = domain.OS.Type.Machine; recorded.Machine == MachineQ35 &&
			machineVersion.MatchString(found.Machine) {
			found.Machine = MachineQ35
		}
	}
	said := recorded.defaulted(d.Emulated)
	keep(&found.CPU, said.CPU, recorded.CPU)
	keep(&found.Memory, said.Memory, recorded.Memory)
	keep(&found.Graphics, said.Graphics, recorded.Graphics)
	keep(&found.Watchdog, said.Watchdog, recorded.Watchdog)
	keep(&found.Random, said.Random, recorded.Random)
	d.Hardware = found
	var err error
	d.LostPatches, err = lostPatches(domain, found.Patches, d.Metadata.UnreadPatches)
	return err
}

// keep replaces what was found by the words of a record if both mean the same.
func keep[T any](found *T, means, recorded T) {
	if reflect.DeepEqual(*found, means) {
		*found = recorded
	}
}

func decodeCPU(domain *libvirtxml.Domain) (c CPU) {
	if cpu := domain.CPU; cpu != nil {
		c.Model = cpu.Mode
		if cpu.Mode == "custom" || cpu.Mode == "" {
			c.Model = ""
			if cpu.Model != nil {
				c.Model = cpu.Model.Value
			}
		}
		if top := cpu.Topology; top != nil {
			c.Sockets, c.Cores, c.Threads = top.Sockets, top.Cores, top.Threads
		}
	}
	tune := domain.CPUTune
	if tune == nil {
		return c
	}
	if tune.Shares != nil {
		c.Shares = int(tune.Shares.Value) //nolint:gosec // a definition of another number is drift in any case
	}
	for _, pin := range tune.VCPUPin {
		if c.Pins == nil {
			c.Pins = map[int]string{}
		}
		c.Pins[int(pin.VCPU)] = pin.CPUSet //nolint:gosec // libvirt has fewer
	}
	return c
}

func (h *Hardware) decodeDevices(devices *libvirtxml.DomainDeviceList) {
	if len(devices.TPMs) > 0 {
		h.TPM = cmp.Or(devices.TPMs[0].Model, "tpm")
	}
	if len(devices.Graphics) > 0 {
		h.Graphics = decodeGraphics(devices.Graphics[0])
		if len(devices.Videos) > 0 {
			h.Graphics.Video = devices.Videos[0].Model.Type
		}
	}
	for _, watchdog := range devices.Watchdogs {
		if watchdog.Model == watchdogModel {
			h.Watchdog = watchdog.Action
		}
	}
	if len(devices.RNGs) > 0 {
		rng := devices.RNGs[0]
		if rng.Backend != nil && rng.Backend.Random != nil {
			h.Random.Source = rng.Backend.Random.Device
		}
		if rng.Rate != nil {
			h.Random.BytesPerSecond = int(uint64(rng.Rate.Bytes) * 1000 / uint64(max(rng.Rate.Period, 1))) //nolint:gosec // another number is drift
		}
	}
	for _, directory := range devices.Filesystems {
		if !isHostDirectory(directory) {
			continue
		}
		if h.Directories == nil {
			h.Directories = map[string]Directory{}
		}
		h.Directories[directory.Target.Dir] = Directory{Path: directory.Source.Mount.Dir,
			ReadOnly: directory.ReadOnly != nil}
	}
	for _, device := range devices.Hostdevs {
		one, name := decodeHostDevice(device)
		if one == (HostDevice{}) {
			continue
		}
		if h.Devices == nil {
			h.Devices = map[string]HostDevice{}
		}
		h.Devices[name] = one
	}
}

// isHostDirectory reports whether a file system is a directory of the host as this package describes it.
func isHostDirectory(directory libvirtxml.DomainFilesystem) bool {
	return directory.Driver != nil && directory.Driver.Type == "virtiofs" && directory.Target != nil &&
		directory.Source != nil && directory.Source.Mount != nil
}

func decodeGraphics(one libvirtxml.DomainGraphic) *Graphics {
	found := &Graphics{}
	var listeners []libvirtxml.DomainGraphicListener
	auto := ""
	switch {
	case one.VNC != nil:
		found.Type, found.Port, found.Socket, found.Listen = "vnc", one.VNC.Port, one.VNC.Socket, one.VNC.Listen
		listeners, auto = one.VNC.Listeners, one.VNC.AutoPort
	case one.Spice != nil:
		found.Type, found.Port, found.Listen = "spice", one.Spice.Port, one.Spice.Listen
		listeners, auto = one.Spice.Listeners, one.Spice.AutoPort
	}
	if auto == "yes" || found.Port < 0 {
		found.Port = 0
	}
	if len(listeners) > 0 {
		switch listen := listeners[0]; {
		case listen.Address != nil:
			found.Listen = listen.Address.Address
		case listen.Socket != nil:
			found.Listen, found.Port, found.Socket = "", 0, listen.Socket.Socket
		}
	}
	return found
}

// decodeHostDevice reads a device of the host. One that somebody has added is named for its address.
func decodeHostDevice(device libvirtxml.DomainHostdev) (found HostDevice, name string) {
	switch {
	case device.SubsysPCI != nil && device.SubsysPCI.Source != nil && device.SubsysPCI.Source.Address != nil:
		number := func(n *uint) uint {
			if n == nil {
				return 0
			}
			return *n
		}
		at := device.SubsysPCI.Source.Address
		found.PCI = fmt.Sprintf("%04x:%02x:%02x.%x", number(at.Domain), number(at.Bus),
			number(at.Slot), number(at.Function))
	case device.SubsysUSB != nil && device.SubsysUSB.Source != nil && device.SubsysUSB.Source.Vendor != nil &&
		device.SubsysUSB.Source.Product != nil:
		found.USB = strings.TrimPrefix(device.SubsysUSB.Source.Vendor.ID, "0x") + ":" +
			strings.TrimPrefix(device.SubsysUSB.Source.Product.ID, "0x")
	}
	if device.Alias != nil {
		if name, ok := strings.CutPrefix(device.Alias.Name, deviceAlias); ok {
			return found, name
		}
	}
	return found, strings.NewReplacer(":", "-", ".", "-").Replace(found.PCI + found.USB)
}

// Accepts implements Hypervisor. libvirt is asked to write the command line of a QEMU, for which it
// checks all that it can check without one.
func (h *Libvirt) Accepts(ctx context.Context, domain Domain) error {
	what := "ask whether libvirt accepts a domain"
	if err := domain.Check(); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	// libvirt looks for USB devices only when it starts a domain: HasDevice does, too.
	domain.Hardware = domain.Hardware.clone()
	maps.DeleteFunc(domain.Hardware.Devices, func(_ string, device HostDevice) bool { return device.USB != "" })
	var refusal error
	err := h.call(ctx, what, func(l *libvirt.Libvirt) error {
		refusal = nil
		platform, err := h.platform(ctx, l)
		if err != nil {
			return err
		}
		// The kernel's vsock is opened for a command line, and is the same for all domains.
		withoutVSock := func(definition *libvirtxml.Domain) { definition.Devices.VSock = nil }
		text, err := platform.encodeAs(domain, withoutVSock)
		if err != nil {
			refusal = err
			return nil
		}
		if len(domain.Hardware.Patches) > 0 {
			if refusal, err = schemaRefusal(l, platform, domain, withoutVSock); err != nil || refusal != nil {
				return err
			}
		}
		_, err = l.ConnectDomainXMLToNative("qemu-argv", text, 0)
		switch {
		case libvirtconn.Is(err, libvirt.ErrNoSupport, libvirt.ErrOperationDenied, libvirt.ErrAccessDenied):
			return nil // it cannot be asked: the apply finds out
		case errors.As(err, new(libvirt.Error)):
			refusal = err
			return nil
		}
		return err
	})
	if err == nil && refusal != nil {
		return fmt.Errorf("%w: %w", ErrRefused, refusal)
	}
	return err
}

// noSuchType is a type of domains that the schema of definitions has and QEMU does not, so that no
// definition with it is ever taken.
const noSuchType = "test"

// schemaRefusal returns why the patches of a domain do not match libvirt's schema: libvirt ignores
// elements that it does not know. It checks a definition against the schema only when it is asked
// to define it. So it is asked to define one that it refuses after that check in any case.
func schemaRefusal(l *libvirt.Libvirt, p platform, domain Domain, change func(*libvirtxml.Domain)) (refusal, _ error) {
	text, err := p.encodeAs(domain, func(definition *libvirtxml.Domain) {
		change(definition)
		definition.Type = noSuchType
	})
	if err != nil {
		return err, nil
	}
	_, err = l.DomainDefineXMLFlags(text, libvirt.DomainDefineValidate)
	switch {
	case libvirtconn.Is(err, libvirt.ErrXMLInvalidSchema):
		if len(domain.Hardware.Patches) == 0 {
			return err, nil
		}
		// A definition that the schema of this libvirt does not know without patches either says nothing about them.
		plain := domain
		plain.Hardware.Patches = nil
		if without, err := schemaRefusal(l, p, plain, change); err != nil || without != nil {
			return nil, err
		}
		return err, nil
	case err == nil:
		return nil, errors.New("libvirt defined a domain of the type " + noSuchType)
	case errors.As(err, new(libvirt.Error)):
		return nil, nil
	}
	return nil, err
}

// CPUModels implements Hypervisor.
func (h *Libvirt) CPUModels(ctx context.Context) (models []string, err error) {
	err = h.call(ctx, "ask for the models of processors", func(l *libvirt.Libvirt) error {
		models = nil
		platform, err := h.platform(ctx, l)
		if err != nil {
			return err
		}
		text, err := l.ConnectGetDomainCapabilities(nil, libvirt.OptString{arch}, libvirt.OptString{MachineQ35},
			libvirt.OptString{platform.virtType}, 0)
		if err != nil {
			return err
		}
		var capabilities libvirtxml.DomainCaps
		if err := capabilities.Unmarshal(text); err != nil {
			return fmt.Errorf("read the capabilities of domains: %w", err)
		}
		if capabilities.CPU == nil {
			return nil
		}
		for _, mode := range capabilities.CPU.Modes {
			switch {
			case mode.Supported != "yes":
			case mode.Name != "custom":
				models = append(models, mode.Name)
			default:
				for _, model := range mode.Models {
					if model.Usable != "no" {
						models = append(models, model.Name)
					}
				}
			}
		}
		return nil
	})
	slices.Sort(models)
	return models, err
}

// FreePages implements Hypervisor.
func (h *Libvirt) FreePages(ctx context.Context, size int64) (free int64, err error) {
	err = h.call(ctx, fmt.Sprintf("count the free pages of %d KiB", size>>10), func(l *libvirt.Libvirt) error {
		free = 0
		// A host has few NUMA nodes. libvirt answers for those that there are.
		// Of a size that the host does not have, it says that the operation failed.
		counts, err := l.NodeGetFreePages([]uint32{uint32(size >> 10)}, 0, maxNodes, 0) //nolint:gosec // Check bounds it
		for _, count := range counts {
			free += int64(count) //nolint:gosec // a host has fewer
		}
		if libvirtconn.Is(err, libvirt.ErrOperationFailed) {
			return nil
		}
		return err
	})
	return free, err
}

const maxNodes = 64

// HasDevice implements Hypervisor.
func (h *Libvirt) HasDevice(ctx context.Context, device HostDevice) (bool, error) {
	if device.PCI != "" {
		if err := CheckPCI(device.PCI); err != nil {
			return false, err
		}
		return h.machine.Exists(ctx, "/sys/bus/pci/devices/"+device.PCI)
	}
	names, err := h.machine.ListDir(ctx, usbDevices)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	for _, name := range names {
		var id []string
		for _, file := range []string{"idVendor", "idProduct"} {
			text, err := h.machine.ReadTail(ctx, usbDevices+"/"+name+"/"+file, 16)
			if errors.Is(err, fs.ErrNotExist) { // an interface of a device, or one that was pulled out
				break
			}
			if err != nil {
				return false, fmt.Errorf("read what USB device %s is: %w", name, err)
			}
			id = append(id, strings.TrimSpace(string(text)))
		}
		if strings.Join(id, ":") == device.USB {
			return true, nil
		}
	}
	return false, err
}

// usbDevices is where Linux lists the USB devices of the machine.
const usbDevices = "/sys/bus/usb/devices"

// SetShares implements Hypervisor.
func (h *Libvirt) SetShares(ctx context.Context, name string, shares int) error {
	return h.call(ctx, fmt.Sprintf("give domain %q %d CPU shares", name, shares), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		switch {
		case err != nil:
			return err
		case found.state != Running:
			return ErrNotRunning
		}
		if shares == 0 {
			unified, err := h.machine.Exists(ctx, unifiedCgroups)
			if err != nil {
				return err
			}
			if shares = legacyShares; unified {
				shares = unifiedShares
			}
		}
		return l.DomainSetSchedulerParametersFlags(found.Domain, []libvirt.TypedParam{{
			Field: "cpu_shares", Value: *libvirt.NewTypedParamValueUllong(uint64(shares)), //nolint:gosec // at most MaxShares
		}}, uint32(libvirt.DomainAffectLive))
	})
}

// The shares of a domain of which nothing is said: cpu.weight of cgroup v2, and cpu.shares of cgroup v1.
const (
	unifiedCgroups = "/sys/fs/cgroup/cgroup.controllers"
	unifiedShares  = 100
	legacyShares   = 1024
)

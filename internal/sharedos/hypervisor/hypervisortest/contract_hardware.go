package hypervisortest

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// AllHardware is hardware that every libvirt defines, whatever its host has.
func AllHardware() hypervisor.Hardware {
	return hypervisor.Hardware{
		Machine: "pc-q35-6.0",
		CPU: hypervisor.CPU{
			Model: "Nehalem", Sockets: 1, Cores: 2, Threads: 1, Pins: map[int]string{0: "0", 1: "0-1"}, Shares: 512,
		},
		Memory:   hypervisor.MemoryBacking{HugePages: 2 << 20, Nodes: "0", Mode: "preferred"},
		Graphics: &hypervisor.Graphics{Type: "vnc", Listen: "127.0.0.1", Port: 5999, Video: "virtio"},
		Watchdog: "pause",
		Random:   hypervisor.Random{Source: "/dev/random", BytesPerSecond: 4096},
		Directories: map[string]hypervisor.Directory{
			"data": {Path: "/srv/data"}, "docs": {Path: "/usr/share/doc", ReadOnly: true},
		},
		Devices: map[string]hypervisor.HostDevice{"card": {PCI: "0000:01:1f.7"}, "stick": {USB: "1d6b:0002"}},
		Patches: []hypervisor.Patch{
			{Op: hypervisor.PatchAdd, Path: "/domain/cpu", XML: `<feature policy="disable" name="pku"/>`},
			{Op: hypervisor.PatchReplace, Path: "/domain/devices/memballoon/@freePageReporting", XML: "off"},
			{Op: hypervisor.PatchAdd, Path: "/domain", XML: `<qemu:commandline><qemu:env name="A" value="b"/></qemu:commandline>`},
		},
	}
}

// hardware is read back as it was defined, each part of it alone and all of it together, and goes again.
func hardware(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	d.VCPUs = 2
	all := AllHardware()
	socket := hypervisor.Graphics{Type: "vnc", Socket: "/run/a.sock", Video: "vga"}
	for name, want := range map[string]hypervisor.Hardware{
		"all":            all,
		"CPU":            {CPU: all.CPU},
		"a machine":      {Machine: all.Machine},
		"any machine":    {Machine: hypervisor.MachineQ35},
		"two cores":      {CPU: hypervisor.CPU{Cores: 2}},
		"a default CPU":  {CPU: hypervisor.CPU{Model: hypervisor.CPUMaximum}},
		"the host's CPU": {CPU: hypervisor.CPU{Model: hypervisor.CPUHostModel}},
		"memory":         {Memory: all.Memory},
		"graphics":       {Graphics: all.Graphics},
		"a socket":       {Graphics: &socket},
		"any port":       {Graphics: &hypervisor.Graphics{Type: "vnc", Listen: "::1", Video: "bochs"}},
		"watchdog":       {Watchdog: all.Watchdog},
		"its default": {Watchdog: hypervisor.WatchdogActions[0],
			Random: hypervisor.Random{Source: hypervisor.RandomSources[0]}},
		"usual graphics": {Graphics: &hypervisor.Graphics{}, Memory: hypervisor.MemoryBacking{Nodes: "0"}},
		"said as usual": {
			Graphics: &hypervisor.Graphics{Type: "vnc", Listen: "127.0.0.1", Video: "vga"},
			Memory:   hypervisor.MemoryBacking{Nodes: "0", Mode: "strict"},
		},
		"random":          {Random: all.Random},
		"directories":     {Directories: all.Directories},
		"devices":         {Devices: all.Devices},
		"patches":         {Patches: all.Patches},
		"nothing of that": {},
	} {
		d.Give(want)
		if err := h.Define(ctx, d); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		t.Run(name, func(t *testing.T) { mustBeDefined(t, ctx, h, d, hypervisor.Off) })
	}
}

// startsWith is hardware with which a domain starts on every host.
func startsWith(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	d.VCPUs = 2
	d.Give(hypervisor.Hardware{
		CPU:      hypervisor.CPU{Model: hypervisor.CPUHostModel, Sockets: 2, Cores: 1, Threads: 1},
		Memory:   hypervisor.MemoryBacking{Nodes: "0", Mode: "preferred"},
		Graphics: &hypervisor.Graphics{Type: "vnc", Listen: "127.0.0.1", Video: "vga"},
		Watchdog: "poweroff", Random: hypervisor.Random{BytesPerSecond: 1024},
		Patches: AllHardware().Patches[1:],
	})
	must(t, h.Accepts(ctx, d))
	must(t, h.Define(ctx, d))
	mustBe(t, h.SetShares(ctx, d.Name, 100), hypervisor.ErrNotRunning)
	must(t, h.Start(ctx, d.Name))
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	// The definition of a running domain follows for its next start.
	d.Give(hypervisor.Hardware{Watchdog: "pause"})
	must(t, h.Define(ctx, d))
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
}

// wrongHardware is refused by itself, before anybody is asked.
func wrongHardware(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	for name, spoil := range map[string]func(*hypervisor.Hardware){
		"another machine":         func(h *hypervisor.Hardware) { h.Machine = "pc-i440fx-9.2" },
		"a model with a space":    func(h *hypervisor.Hardware) { h.CPU.Model = "a b" },
		"another topology":        func(h *hypervisor.Hardware) { h.CPU.Cores = 3 },
		"negative threads":        func(h *hypervisor.Hardware) { h.CPU.Threads = -1 },
		"a processor that is not": func(h *hypervisor.Hardware) { h.CPU.Pins = map[int]string{2: "0"} },
		"pins in another form":    func(h *hypervisor.Hardware) { h.CPU.Pins = map[int]string{0: "1,0"} },
		"no pins":                 func(h *hypervisor.Hardware) { h.CPU.Pins = map[int]string{0: ""} },
		"few shares":              func(h *hypervisor.Hardware) { h.CPU.Shares = hypervisor.MinShares - 1 },
		"many shares":             func(h *hypervisor.Hardware) { h.CPU.Shares = hypervisor.MaxShares + 1 },
		"odd pages":               func(h *hypervisor.Hardware) { h.Memory.HugePages = 1000 },
		"a mode without nodes":    func(h *hypervisor.Hardware) { h.Memory.Nodes = "" },
		"an unknown mode":         func(h *hypervisor.Hardware) { h.Memory.Mode = "loose" },
		"an unknown TPM":          func(h *hypervisor.Hardware) { h.TPM = "tpm-1" },
		"unknown graphics":        func(h *hypervisor.Hardware) { h.Graphics.Type = "sdl" },
		"graphics on a name":      func(h *hypervisor.Hardware) { h.Graphics.Listen = "localhost" },
		"graphics on two":         func(h *hypervisor.Hardware) { h.Graphics.Socket = "/run/a" },
		"graphics on a port":      func(h *hypervisor.Hardware) { h.Graphics.Port = 65536 },
		"a relative socket": func(h *hypervisor.Hardware) {
			h.Graphics = &hypervisor.Graphics{Type: "vnc", Socket: "a", Video: "vga"}
		},
		"an unknown action":        func(h *hypervisor.Hardware) { h.Watchdog = "explode" },
		"an unknown source":        func(h *hypervisor.Hardware) { h.Random.Source = "/dev/zero" },
		"negative bytes":           func(h *hypervisor.Hardware) { h.Random.BytesPerSecond = -1 },
		"a relative directory":     func(h *hypervisor.Hardware) { h.Directories = map[string]hypervisor.Directory{"a": {Path: "a"}} },
		"a tag with a slash":       func(h *hypervisor.Hardware) { h.Directories = map[string]hypervisor.Directory{"a/b": {Path: "/a"}} },
		"a device without address": func(h *hypervisor.Hardware) { h.Devices = map[string]hypervisor.HostDevice{"a": {}} },
		"a device with two": func(h *hypervisor.Hardware) {
			h.Devices = map[string]hypervisor.HostDevice{"a": {PCI: "0000:01:00.0", USB: "1d6b:0002"}}
		},
		"a short PCI address":        func(h *hypervisor.Hardware) { h.Devices = map[string]hypervisor.HostDevice{"a": {PCI: "01:00.0"}} },
		"a USB address of one":       func(h *hypervisor.Hardware) { h.Devices = map[string]hypervisor.HostDevice{"a": {USB: "1d6b"}} },
		"a patch that does nothing":  func(h *hypervisor.Hardware) { h.Patches[0].Op = "test" },
		"a patch that is not closed": func(h *hypervisor.Hardware) { h.Patches[0].XML = "<a>" },
	} {
		d := Domain(t, h)
		d.VCPUs = 2
		hardware := AllHardware()
		spoil(&hardware)
		d.Give(hardware)
		if err := h.Define(ctx, d); err == nil {
			t.Errorf("%s was defined", name)
		}
		mustBe(t, h.Accepts(ctx, d), hypervisor.ErrRefused)
	}
	models, err := h.CPUModels(ctx)
	must(t, err)
	if !slices.Contains(models, hypervisor.CPUHostModel) ||
		!slices.ContainsFunc(models, func(m string) bool { return strings.HasPrefix(m, "Nehalem") }) {
		t.Errorf("the models are %q", models)
	}
	for _, none := range []hypervisor.HostDevice{{PCI: "ffff:ff:1f.7"}, {USB: "ffff:ffff"}} {
		if has, err := h.HasDevice(ctx, none); err != nil || has {
			t.Errorf("it has %v: %t, %v", none, has, err)
		}
	}
	if _, err := h.FreePages(ctx, 2<<20); err != nil {
		t.Error(err)
	}
	if free, err := h.FreePages(ctx, 512<<10); free != 0 || err != nil { // no host has pages of this size
		t.Errorf("of a size that the host lacks there are %d, %v", free, err)
	}
}

package provider_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// machine is a host that has everything.
func machine(t *testing.T) *providertest.World {
	t.Helper()
	world := newWorld(t)
	world.Domains.Pages = map[int64]int64{2 << 20: 1000}
	world.Domains.Devices = []hypervisor.HostDevice{{PCI: "0000:01:00.0"}, {USB: "1d6b:0002"}}
	return world
}

// hasHardware compares the hardware in the definition.
func hasHardware(t *testing.T, world *providertest.World, want hypervisor.Hardware) resource.TestCheckFunc {
	return func(*terraform.State) error {
		domain, _, err := world.VM(t.Context(), "web")
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, domain.Hardware); diff != "" {
			return fmt.Errorf("the hardware is (-want +got):\n%s", diff)
		}
		if got := domain.Metadata.Hardware; (got == nil) != want.IsZero() ||
			got != nil && !reflect.DeepEqual(*got, want) {
			return fmt.Errorf("the record is %+v", got)
		}
		return nil
	}
}

// Each attribute: a VM is made without it and gets it, is imported, loses it to somebody else, and
// loses it in the configuration.
func TestHardwareOfAVM(t *testing.T) {
	const powerOff, live = "reboot", "none"
	patch := hypervisor.Patch{Op: "add", Path: "/domain/devices", XML: `<sound model="ich9"/>`}
	for name, test := range map[string]struct {
		attribute, value string
		want             hypervisor.Hardware
		way              string
		reason           vm.Reason
	}{
		"processor": {
			"cpu", `{ model = "host-model", sockets = 2, pinning = { "0" = "1,0", "1" = "3" } }`,
			hypervisor.Hardware{CPU: hypervisor.CPU{
				Model: "host-model", Sockets: 2, Pins: map[int]string{0: "0-1", 1: "3"},
			}}, powerOff, vm.ReasonCPU,
		},
		"machine": {"machine", `"pc-q35-9.2"`, hypervisor.Hardware{Machine: "pc-q35-9.2"}, powerOff, vm.ReasonMachine},
		"shares": {"cpu", `{ shares = 200 }`,
			hypervisor.Hardware{CPU: hypervisor.CPU{Shares: 200}}, live, vm.ReasonShares},
		"backing": {
			"memory_backing", `{ huge_page_size = "2048KiB", numa_nodes = "0,1", numa_mode = "preferred" }`,
			hypervisor.Hardware{Memory: hypervisor.MemoryBacking{HugePages: 2 << 20, Nodes: "0-1", Mode: "preferred"}},
			powerOff, vm.ReasonMemoryBacking,
		},
		"tpm":              {"tpm", `"tpm-crb"`, hypervisor.Hardware{TPM: "tpm-crb"}, powerOff, vm.ReasonTPM},
		"default graphics": {"graphics", `{}`, hypervisor.Hardware{Graphics: &hypervisor.Graphics{}}, powerOff, vm.ReasonGraphics},
		"graphics": {
			"graphics", `{ type = "spice", listen = "::1", port = 5999, video = "virtio" }`,
			hypervisor.Hardware{Graphics: &hypervisor.Graphics{Type: "spice", Listen: "::1", Port: 5999,
				Video: "virtio"}}, powerOff, vm.ReasonGraphics,
		},
		"graphics on a socket": {
			"graphics", `{ socket = "/run/web.sock" }`,
			hypervisor.Hardware{Graphics: &hypervisor.Graphics{Socket: "/run/web.sock"}}, powerOff, vm.ReasonGraphics,
		},
		"watchdog": {"watchdog", `"pause"`, hypervisor.Hardware{Watchdog: "pause"}, powerOff, vm.ReasonWatchdog},
		"rng": {
			"rng", `{ source = "/dev/hwrng", bytes_per_second = 1024 }`,
			hypervisor.Hardware{Random: hypervisor.Random{Source: "/dev/hwrng", BytesPerSecond: 1024}}, powerOff,
			vm.ReasonRNG,
		},
		"directories": {
			"host_directories", `{ etc = { path = "/etc", read_only = true }, tmp = { path = "/tmp" } }`,
			hypervisor.Hardware{Directories: map[string]hypervisor.Directory{"etc": {Path: "/etc", ReadOnly: true},
				"tmp": {Path: "/tmp"}}},
			powerOff, vm.ReasonDirectories,
		},
		"devices": {
			"host_devices", `{ card = { pci = "0000:01:00.0" }, stick = { usb = "1d6b:0002" } }`,
			hypervisor.Hardware{Devices: map[string]hypervisor.HostDevice{"card": {PCI: "0000:01:00.0"},
				"stick": {USB: "1d6b:0002"}}},
			powerOff, vm.ReasonDevices,
		},
		"patches": {
			"xml_patch", `[{ op = "add", path = "/domain/devices", xml = "<sound model=\"ich9\"/>" }]`,
			hypervisor.Hardware{Patches: []hypervisor.Patch{patch}}, powerOff, vm.ReasonPatches,
		},
	} {
		t.Run(name, func(t *testing.T) {
			world := machine(t)
			config := func(body string) string {
				return debian(patched) + web("vcpus = 2\n"+body+"\n"+`refresh = { max_impact = "reboot" }`)
			}
			without, with := config(""), config(test.attribute+" = "+test.value)
			var calls []string
			changes := func(config string, before func(), want hypervisor.Hardware) resource.TestStep {
				return resource.TestStep{
					PreConfig: func() {
						if before != nil {
							before()
						}
						calls = world.Domains.Calls()
					},
					Config: config,
					ConfigPlanChecks: plans(
						action(webAddress, plancheck.ResourceActionUpdate),
						plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
							knownvalue.StringExact(test.way)),
						plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"),
							knownvalue.ListExact([]knownvalue.Check{knownvalue.StringExact(string(test.reason))})),
					),
					Check: resource.ComposeTestCheckFunc(hasHardware(t, world, want), func(*terraform.State) error {
						if did := world.Domains.Calls()[len(calls):]; slices.Contains(did,
							"Start web") != (test.way == powerOff) {
							return fmt.Errorf("the apply called %q", did)
						}
						if got := world.Domains.Shares("web"); got != want.CPU.Shares {
							return fmt.Errorf("it runs with %d shares", got)
						}
						return nil
					}),
				}
			}
			give := func(hardware hypervisor.Hardware) func() {
				return func() { world.Domains.Alter("web", func(d *hypervisor.Domain) { d.Hardware = hardware }) }
			}
			null := []statecheck.StateCheck{value(webAddress, attribute(test.attribute), knownvalue.Null())}
			created := resource.TestStep{Config: without,
				Check: hasHardware(t, world, hypervisor.Hardware{}), ConfigStateChecks: null}
			steps := []resource.TestStep{
				created,
				changes(with, nil, test.want),
				{
					ResourceName: webAddress, ImportState: true, ImportStateId: "web",
					ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
					ImportStateVerifyIgnore: []string{
						"refresh", "agent.ready_seconds", "impact", "last_refresh",
						// What it says is compared as it is written there.
						"cpu.pinning.0", "memory_backing.huge_page_size", "memory_backing.numa_nodes",
					},
				},
			}
			if name == "patches" ||
				name == "default graphics" { // patches are drift otherwise, and {} is read as such alone
				steps = append(steps, changes(without, nil, hypervisor.Hardware{}))
			} else {
				steps = append(steps,
					changes(with, give(hypervisor.Hardware{}), test.want),
					changes(without, nil, hypervisor.Hardware{}),
					// It is drift, too, if the configuration does not have it.
					changes(without, give(test.want), hypervisor.Hardware{}),
				)
			}
			check(t, world, steps...)
		})
	}
}

// With next_boot the definition changes, and the guest goes on.
func TestHardwareWaitsForTheNextBoot(t *testing.T) {
	world := machine(t)
	config := func(body string) string {
		return debian(patched) + web(body+"\n"+`refresh = { strategy = "next_boot", max_impact = "none" }`)
	}
	check(t, world,
		resource.TestStep{Config: config("")},
		resource.TestStep{
			Config: config(`watchdog = "pause"`),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("none")),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"),
					knownvalue.ListExact([]knownvalue.Check{
						knownvalue.StringExact(string(vm.ReasonWatchdog)),
						knownvalue.StringExact(string(vm.ReasonHardwareLater)),
					})),
			),
			Check: resource.ComposeTestCheckFunc(hasHardware(t, world, hypervisor.Hardware{Watchdog: "pause"}),
				func(*terraform.State) error {
					if starts := slices.DeleteFunc(world.Domains.Calls(),
						func(call string) bool { return call != "Start web" }); len(starts) != 1 {
						return fmt.Errorf("it was started %d times", len(starts))
					}
					return nil
				}),
		},
	)
}

// Without leave to power the VM off, the plan refuses.
func TestHardwareIsRefusedWithoutLeaveToPowerOff(t *testing.T) {
	world := machine(t)
	check(t, world,
		resource.TestStep{Config: debian(patched) + web("")},
		resource.TestStep{
			Config: debian(patched) + web(`tpm = "tpm-crb"`), PlanOnly: true,
			ExpectError: says("the TPM changes only through a power-off", "max_impact"),
		},
	)
}

// Somebody takes a patch out of the definition: the plan shows it, and the apply puts it back
// without touching the guest.
func TestAPatchThatIsLostIsPutBack(t *testing.T) {
	world := machine(t)
	config := debian(patched) +
		web(`xml_patch = [{ op = "add", path = "/domain/devices", xml = "<sound model=\"ich9\"/>" }]`)
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			PreConfig: func() { world.Domains.Alter("web", func(d *hypervisor.Domain) { d.LostPatches = []int{0} }) },
			Config:    config,
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectUnknownValue(webAddress, attribute("faults")),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("faults"),
				knownvalue.ListSizeExact(0))},
			Check: func(*terraform.State) error {
				domain, _, err := world.VM(t.Context(), "web")
				if err == nil && len(domain.LostPatches) > 0 {
					err = errors.New("it is still lost")
				}
				return err
			},
		},
	)
}

// What the host lacks is refused before anything changes, at its attribute and with what to do.
func TestHardwareThatTheHostLacksIsRefusedByThePlan(t *testing.T) {
	world := machine(t)
	world.Domains.Host = hypervisor.Limits{VCPUs: 8, Processors: 8, Memory: 64 << 30, Emulated: true}
	world.Domains.Refuse = func(d hypervisor.Domain) error {
		switch h := d.Hardware; {
		case h.TPM != "":
			return errors.New("TPM version '2.0' is not supported")
		case len(h.Directories) > 0:
			return errors.New("unable to find a satisfying virtiofsd")
		case len(h.Patches) == 2:
			return &hypervisor.PatchError{Index: 1, Err: errors.New("its path matches 0 elements")}
		}
		return nil
	}
	var steps []resource.TestStep
	for _, mistake := range []struct {
		body string
		want []string
	}{
		{`cpu = { model = "Pentium-9" }`, []string{"cannot offer a processor", "Nehalem", "host-model"}},
		{`cpu = { cores = 3 }`, []string{"1 sockets with 3 cores with 1 threads are not 1 processors"}},
		{`cpu = { pinning = { "0" = "0" } }`, []string{"no KVM", "Leave cpu.pinning out"}},
		{`cpu = { pinning = { "0" = "3-1" } }`, []string{"0-3,8"}},
		{`memory_backing = { huge_page_size = "1GiB" }`, []string{"no whole number of pages"}},
		{`memory_backing = { huge_page_size = "1MiB" }`, []string{"needs 512 pages", "0 of them are free", "allocpages"}},
		{`memory_backing = { numa_mode = "strict" }`, []string{"no numa_nodes"}},
		{`tpm = "tpm-tis"`, []string{"TPM version", "swtpm"}},
		{`graphics = { socket = "/run/a", port = 5900 }`, []string{"a unix socket, which has no port"}},
		{`host_directories = { none = { path = "/no/such/directory" } }`, []string{"the host has no directory /no/such/directory"}},
		{`host_directories = { etc = { path = "/etc" } }`, []string{"virtiofsd", "apt-get install virtiofsd"}},
		{`host_devices = { card = { pci = "0000:02:00.0" } }`, []string{"the host has no device 0000:02:00.0", "nodedev-list --cap pci"}},
		{`host_devices = { card = { usb = "ffff:0002" } }`, []string{"the host has no device ffff:0002", "usb_device"}},
		{`host_devices = { card = {} }`, []string{"exactly one of pci, usb"}},
		{`xml_patch = [{ op = "add", path = "/domain/devices", xml = "<a>" }]`, []string{"not well-formed"}},
		{`xml_patch = [{ op = "add", path = "//devices", xml = "<a/>" }]`, []string{"is not a path"}},
		{
			`xml_patch = [{ op = "remove", path = "/domain/clock" }, { op = "remove", path = "/domain/clock/@a" }]`,
			[]string{"its path matches 0 elements", "virsh dumpxml"},
		},
	} {
		steps = append(steps,
			resource.TestStep{Config: debian(patched) + web(mistake.body), PlanOnly: true,
				ExpectError: says(mistake.want...)})
	}
	check(t, world, steps...)
	for _, call := range world.Domains.Calls() {
		t.Errorf("the plans called %s", call)
	}
}

package provider_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// lan is a VM that must not be powered off for a change, with one interface on a bridge.
func lan(body string) string {
	return web(`
  vcpus      = 2
  interfaces = { lan = { bridge = "br0", ` + body + ` } }
  refresh    = { max_impact = "none" }`)
}

// impactIs are the checks of a plan that changes a VM for some reasons.
func impactIs(level string, reasons ...vm.Reason) []plancheck.PlanCheck {
	known := make([]knownvalue.Check, len(reasons))
	for i, reason := range reasons {
		known[i] = knownvalue.StringExact(string(reason))
	}
	return []plancheck.PlanCheck{
		action(webAddress, plancheck.ResourceActionUpdate),
		plancheck.ExpectUnknownValue(webAddress, attribute("addresses")),
		plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"), knownvalue.StringExact(level)),
		plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"), knownvalue.ListExact(known)),
	}
}

// did checks which calls an apply has made that change interfaces, or the power. calls are those before it.
func did(world *providertest.World, calls *[]string, want ...string) resource.TestCheckFunc {
	return func(*terraform.State) error {
		var got []string
		for _, call := range world.Domains.Calls()[len(*calls):] {
			method, _, _ := strings.Cut(call, " ")
			if strings.Contains(method, "Interface") || method == "Start" ||
				method == "Shutdown" || method == "PowerOff" {
				got = append(got, method)
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("the apply called %q, want %q", got, want)
		}
		return nil
	}
}

// isLan compares the interface with the one that it should be, and the link that it runs with.
func isLan(t *testing.T, world *providertest.World, want hypervisor.Interface) resource.TestCheckFunc {
	return func(*terraform.State) error {
		domain, _, err := world.VM(t.Context(), "web")
		if err != nil {
			return err
		}
		runs, err := world.Domains.AttachedInterfaces(t.Context(), "web")
		if err != nil {
			return err
		}
		want.Bridge = "br0"
		if diff := cmp.Diff(want, domain.Interfaces["lan"]); diff != "" || runs["lan"] != want {
			return fmt.Errorf("the interface is (-want +got):\n%s\nthe VM runs with %+v", diff, runs)
		}
		return nil
	}
}

// Each attribute of an interface: a VM is made without it and gets it, is imported, loses it to
// somebody else, and loses it in the configuration.
func TestAttributesOfAnInterface(t *testing.T) {
	again, update := []string{"DetachInterface", "AttachInterface"}, []string{"UpdateInterface"}
	for name, test := range map[string]struct {
		value   string
		known   knownvalue.Check
		without knownvalue.Check
		want    hypervisor.Interface
		calls   []string
		reason  vm.Reason
		drift   func(*providertest.World)
	}{
		"mac": {
			`"52:54:00:00:00:01"`, knownvalue.StringExact("52:54:00:00:00:01"), knownvalue.Null(),
			hypervisor.Interface{MAC: "52:54:00:00:00:01"}, again, vm.ReasonCards,
			alter(func(i *hypervisor.Interface) { i.MAC = "52:54:00:00:00:02" }),
		},
		"model": {
			`"e1000e"`, knownvalue.StringExact("e1000e"), knownvalue.StringExact("virtio"),
			hypervisor.Interface{Model: "e1000e"}, again, vm.ReasonCards,
			alter(func(i *hypervisor.Interface) { i.Model = "rtl8139" }),
		},
		"mtu": {
			`9000`, knownvalue.Int64Exact(9000), knownvalue.Null(),
			hypervisor.Interface{MTU: 9000}, again, vm.ReasonCards,
			alter(func(i *hypervisor.Interface) { i.MTU = 0 }),
		},
		"queues": {
			`2`, knownvalue.Int64Exact(2), knownvalue.Int64Exact(1),
			hypervisor.Interface{Queues: 2}, again, vm.ReasonCards,
			alter(func(i *hypervisor.Interface) { i.Queues = 0 }),
		},
		"vlan": {
			`42`, knownvalue.Int64Exact(42), knownvalue.Null(),
			hypervisor.Interface{VLAN: 42}, again, vm.ReasonCards,
			alter(func(i *hypervisor.Interface) { i.VLAN = 43 }),
		},
		"link": {
			`"down"`, knownvalue.StringExact("down"), knownvalue.StringExact("up"),
			hypervisor.Interface{Down: true}, update, vm.ReasonLinks,
			func(world *providertest.World) { world.Domains.Cable("web", "lan", false) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			world := newWorld(t)
			world.Domains.VLANs = []string{"br0"}
			at := attribute("interfaces").AtMapKey("lan").AtMapKey(name)
			without, with := debian(patched)+lan(""), debian(patched)+lan(name+" = "+test.value)
			changes := func(known knownvalue.Check) resource.ConfigPlanChecks {
				return plans(append(impactIs("none", test.reason),
					plancheck.ExpectKnownValue(webAddress, at, known))...)
			}
			var calls []string
			check(t, world,
				resource.TestStep{
					Config: without, Check: isLan(t, world, hypervisor.Interface{}),
					ConfigStateChecks: []statecheck.StateCheck{value(webAddress, at, test.without)},
				},
				resource.TestStep{
					PreConfig: func() { calls = world.Domains.Calls() },
					Config:    with, ConfigPlanChecks: changes(test.known),
					ConfigStateChecks: []statecheck.StateCheck{value(webAddress, at, test.known)},
					Check: resource.ComposeTestCheckFunc(isLan(t, world, test.want),
						did(world, &calls, test.calls...)),
				},
				resource.TestStep{
					ResourceName: webAddress, ImportState: true, ImportStateId: "web",
					ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
					ImportStateVerifyIgnore: []string{"refresh", "agent.ready_seconds", "impact", "last_refresh"},
				},
				resource.TestStep{
					PreConfig: func() { test.drift(world) },
					Config:    with, ConfigPlanChecks: changes(test.known), Check: isLan(t, world, test.want),
				},
				resource.TestStep{Config: without, ConfigPlanChecks: changes(test.without),
					Check: isLan(t, world, hypervisor.Interface{})},
				// It is drift, too, if the configuration does not have it.
				resource.TestStep{
					PreConfig: func() {
						if test.want.Down {
							world.Domains.Cable("web", "lan", true)
							return
						}
						alter(func(i *hypervisor.Interface) { *i = test.want; i.Bridge = "br0" })(world)
					},
					Config: without, ConfigPlanChecks: changes(test.without),
					Check: isLan(t, world, hypervisor.Interface{}),
				},
			)
		})
	}
}

// alter changes the interface in the running VM and in the definition, as virsh update-device
// --live --config does, or virsh edit and a restart.
func alter(change func(*hypervisor.Interface)) func(*providertest.World) {
	return func(world *providertest.World) {
		alterDefinition(change)(world)
		world.Domains.Replug("web", "lan", func(one *hypervisor.Interface) *hypervisor.Interface {
			change(one)
			return one
		})
	}
}

// alterDefinition changes the interface in the definition alone, as virsh edit does.
func alterDefinition(change func(*hypervisor.Interface)) func(*providertest.World) {
	return func(world *providertest.World) {
		world.Domains.Alter("web", func(d *hypervisor.Domain) {
			one := d.Interfaces["lan"]
			change(&one)
			d.Interfaces = map[string]hypervisor.Interface{"lan": one}
		})
	}
}

// What somebody has changed in the definition alone is a fault: the VM would start with it.
func TestAnInterfaceThatDiffersFromTheDefinitionIsAFault(t *testing.T) {
	for name, change := range map[string]func(*hypervisor.Interface){
		"link": func(i *hypervisor.Interface) { i.Down = true },
		"mac":  func(i *hypervisor.Interface) { i.MAC = "52:54:00:00:00:09" },
	} {
		t.Run(name, func(t *testing.T) {
			world := newWorld(t)
			config := debian(patched) + lan("")
			var calls []string
			check(t, world,
				resource.TestStep{Config: config},
				resource.TestStep{
					PreConfig: func() { alterDefinition(change)(world); calls = world.Domains.Calls() },
					Config:    config,
					ConfigPlanChecks: plans(
						action(webAddress, plancheck.ResourceActionUpdate),
						plancheck.ExpectUnknownValue(webAddress, attribute("faults")),
						plancheck.ExpectKnownValue(webAddress, attribute("interfaces").AtMapKey("lan").AtMapKey("link"),
							knownvalue.StringExact("up")),
					),
					ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("faults"),
						knownvalue.ListSizeExact(0))},
					Check: resource.ComposeTestCheckFunc(isLan(t, world, hypervisor.Interface{}),
						did(world, &calls)),
				},
			)
		})
	}
}

// Interfaces come, move and go in a VM that runs. What somebody has detached, attached or moved in
// the running VM alone is shown, and put back.
func TestInterfacesOfARunningVM(t *testing.T) {
	world := newWorld(t)
	with := func(interfaces string) string {
		return debian(patched) + web("refresh = { max_impact = \"none\" }\ninterfaces = {"+interfaces+"}")
	}
	const lan, back = "\nlan = { bridge = \"br0\" }\n",
		"back = { network = \"default\", mac = \"52:54:00:00:00:07\" }\n"
	runs := func(want map[string]hypervisor.Interface) resource.TestCheckFunc {
		return func(*terraform.State) error {
			got, err := world.Domains.AttachedInterfaces(t.Context(), "web")
			if err != nil {
				return err
			}
			domain, _, err := world.VM(t.Context(), "web")
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()) +
				cmp.Diff(want, domain.Interfaces, cmpopts.EquateEmpty()); diff != "" {
				return fmt.Errorf("it runs, or is defined, with other interfaces (-want +got): %s, %w", diff, err)
			}
			return err
		}
	}
	isLan, isBack := hypervisor.Interface{Bridge: "br0"},
		hypervisor.Interface{Network: "default", MAC: "52:54:00:00:00:07"}
	both := map[string]hypervisor.Interface{"lan": isLan, "back": isBack}
	var calls []string
	step := func(before func(), config string, want map[string]hypervisor.Interface, called []string,
		reasons ...vm.Reason) resource.TestStep {
		return resource.TestStep{
			PreConfig: func() {
				if before != nil {
					before()
				}
				calls = world.Domains.Calls()
			},
			Config: config, ConfigPlanChecks: plans(impactIs("none", reasons...)...),
			Check: resource.ComposeTestCheckFunc(runs(want), did(world, &calls, called...)),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("faults"), knownvalue.ListSizeExact(0)),
				value(webAddress, attribute("addresses"), knownvalue.MapSizeExact(len(want))),
			},
		}
	}
	detach := func() {
		world.Domains.Replug("web", "back", func(*hypervisor.Interface) *hypervisor.Interface { return nil })
	}
	move := func() {
		world.Domains.Replug("web", "lan",
			func(one *hypervisor.Interface) *hypervisor.Interface { one.Bridge = "br1"; return one })
	}
	add := func() {
		world.Domains.Replug("web", "own",
			func(*hypervisor.Interface) *hypervisor.Interface { return &hypervisor.Interface{Bridge: "br1"} })
	}
	swapped := map[string]hypervisor.Interface{
		"lan": {Bridge: "br0", MAC: "52:54:00:00:00:07"}, "back": {Network: "default", MAC: "52:54:00:00:00:08"},
	}
	check(t, world,
		resource.TestStep{Config: with("")},
		step(nil, with(lan+back), both, []string{"AttachInterface", "AttachInterface"}, vm.ReasonInterfacesLive),
		resource.TestStep{
			ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
			ImportStateVerifyIdentifierAttribute: "name",
			ImportStateVerifyIgnore:              []string{"refresh", "agent.ready_seconds", "impact", "last_refresh"},
		},
		resource.TestStep{Config: with(lan + back),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop))},
		step(detach, with(lan+back), both, []string{"AttachInterface"}, vm.ReasonInterfacesLive),
		step(move, with(lan+back), both, []string{"UpdateInterface"}, vm.ReasonNetworks),
		step(add, with(lan+back), both, []string{"DetachInterface"}, vm.ReasonInterfacesLive),
		// One gets the MAC address that the other one had.
		step(nil, with(strings.Replace(lan, "br0\"", "br0\", mac = \"52:54:00:00:00:07\"", 1)+
			strings.Replace(back, "07", "08", 1)), swapped,
			[]string{"DetachInterface", "DetachInterface", "AttachInterface", "AttachInterface"}, vm.ReasonCards),
		step(nil, with("\nlan = { network = \"default\", mac = \"52:54:00:00:00:07\" }\n"),
			map[string]hypervisor.Interface{"lan": {Network: "default", MAC: "52:54:00:00:00:07"}},
			[]string{"UpdateInterface", "DetachInterface"}, vm.ReasonNetworks, vm.ReasonInterfacesLive),
		step(nil, with(""), nil, []string{"DetachInterface"}, vm.ReasonInterfacesLive),
	)
}

// A user-mode network takes a power-off, which max_impact has to allow, and everything else changes with it.
func TestAUserModeNetworkTakesAPowerOff(t *testing.T) {
	world := newWorld(t)
	with := func(interfaces, limit string) string {
		return debian(patched) + web(`refresh = { max_impact = "`+limit+`" }`+"\ninterfaces = {"+interfaces+"}")
	}
	const lan, user = "\nlan = { bridge = \"br0\" }\n", "out = { user = { forwards = { \"8080\" = 80 } } }\n"
	var calls []string
	check(t, world,
		resource.TestStep{Config: with("", "none")},
		resource.TestStep{Config: with(lan+user, "none"), ExpectError: says(string(vm.ReasonInterfaces))},
		resource.TestStep{
			PreConfig: func() { calls = world.Domains.Calls() },
			Config:    with(lan+user, "reboot"), ConfigPlanChecks: plans(impactIs("reboot", vm.ReasonInterfaces)...),
			Check: did(world, &calls, "Shutdown", "Start"),
		},
		// The other one can go while the VM runs.
		resource.TestStep{
			PreConfig: func() { calls = world.Domains.Calls() },
			Config:    with("\n"+user, "none"), ConfigPlanChecks: plans(impactIs("none", vm.ReasonInterfacesLive)...),
			Check: did(world, &calls, "DetachInterface"),
		},
		resource.TestStep{Config: with("\nout = { bridge = \"br0\" }\n", "none"),
			ExpectError: says(string(vm.ReasonInterfaces))},
	)
}

// A VM that is off changes only in its definition.
func TestInterfacesOfAVMThatIsOff(t *testing.T) {
	world := newWorld(t)
	config := func(body string) string {
		return debian(patched) + web("running = false\n"+`interfaces = { lan = { bridge = "br0", `+body+` } }`)
	}
	none := knownvalue.MapExact(map[string]knownvalue.Check{"lan": knownvalue.ObjectExact(map[string]knownvalue.Check{
		"mac": knownvalue.StringExact("52:54:00:00:00:01"), "ipv4": knownvalue.ListSizeExact(0),
		"ipv6": knownvalue.ListSizeExact(0),
	})})
	check(t, world,
		resource.TestStep{Config: config("")},
		resource.TestStep{
			Config: config(`mac = "52:54:00:00:00:01", link = "down", mtu = 1400`),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact"), knownvalue.Null()),
				plancheck.ExpectKnownValue(webAddress, attribute("addresses"), none),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("addresses"), none)},
			Check: func(*terraform.State) error {
				domain, state, err := world.Domains.Lookup(t.Context(), "web")
				if want := (hypervisor.Interface{Bridge: "br0", MAC: "52:54:00:00:00:01", Down: true,
					MTU: 1400}); err != nil || state != hypervisor.Off ||
					domain.Interfaces["lan"] != want {
					return fmt.Errorf("%+v, %d, %w", domain.Interfaces, state, err)
				}
				return nil
			},
		},
	)
}

// The addresses of each interface are those that the agent says for its MAC address. They change no plan.
func TestTheAddressesOfAVM(t *testing.T) {
	world := newWorld(t)
	var said atomic.Pointer[[]string]
	say := func(addresses ...string) func() { return func() { said.Store(&addresses) } }
	say("10.0.0.2", "2001:db8::2", "fe80::2")()
	guest(t, world, "web").Addresses = func() []string { return *said.Load() }
	guest(t, world, "web").Interfaces = func() []*agentapi.InterfaceAddresses {
		return []*agentapi.InterfaceAddresses{
			{Mac: "52:54:00:00:00:01", Addresses: *said.Load()}, {Mac: "52:54:00:00:00:02", Addresses: []string{"fe80::3"}},
			{Mac: "02:42:00:00:00:01", Addresses: []string{"172.17.0.1"}},
		}
	}
	config := func(base, more string) string {
		return base + web(`interfaces = {
  lan  = { bridge = "br0", mac = "52:54:00:00:00:01" }
  back = { bridge = "br1", mac = "52:54:00:00:00:02" }
}`+"\n"+more)
	}
	reboot := func(more string) string { return `refresh = { max_impact = "reboot" }` + "\n" + more }
	are := func(ipv4, ipv6, back []string) knownvalue.Check {
		list := func(texts []string) knownvalue.Check {
			checks := make([]knownvalue.Check, len(texts))
			for i, text := range texts {
				checks[i] = knownvalue.StringExact(text)
			}
			return knownvalue.ListExact(checks)
		}
		return knownvalue.MapExact(map[string]knownvalue.Check{
			"lan": knownvalue.ObjectExact(map[string]knownvalue.Check{"mac": knownvalue.NotNull(),
				"ipv4": list(ipv4), "ipv6": list(ipv6)}),
			"back": knownvalue.ObjectExact(map[string]knownvalue.Check{"mac": knownvalue.NotNull(),
				"ipv4": list(nil), "ipv6": list(back)}),
		})
	}
	step := func(before func(), config string, want knownvalue.Check, checks ...plancheck.PlanCheck) resource.TestStep {
		return resource.TestStep{
			PreConfig: before, Config: config, ConfigPlanChecks: plans(checks...),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("addresses"), want)},
		}
	}
	addresses := attribute("addresses")
	none, two := are(nil, nil, nil), are([]string{"10.0.0.2"}, []string{"2001:db8::2"}, []string{"fe80::3"})
	other := are([]string{"10.0.0.9"}, nil, []string{"fe80::3"})
	read := `
data "sharedos_vm" "web" { name = sharedos_vm.web.name }
output "address" { value = one(sharedos_vm.web.addresses["lan"].ipv4) }`
	check(t, world,
		step(nil, config(debian(unpatched), "")+read, two, plancheck.ExpectUnknownValue(webAddress, addresses)),
		resource.TestStep{Config: config(debian(unpatched), "") + read, ConfigStateChecks: []statecheck.StateCheck{
			value("data.sharedos_vm.web", addresses, two),
			statecheck.ExpectKnownOutputValue("address", knownvalue.StringExact("10.0.0.2")),
		}},
		// They change by themselves.
		step(say("10.0.0.9"), config(debian(unpatched), ""), other, action(webAddress, plancheck.ResourceActionNoop)),
		// What an agent that is silent, or of an earlier version, has said before stays.
		step(func() { world.Guests.Silence("web", true) }, config(debian(unpatched), ""), other,
			action(webAddress, plancheck.ResourceActionNoop)),
		step(func() { world.Guests.Silence("web", false) }, config(debian(unpatched), ""), other,
			action(webAddress, plancheck.ResourceActionNoop)),
		// A patch is no start, unless it restarts the system.
		step(nil, config(debian(patched), ""), other, action(webAddress, plancheck.ResourceActionUpdate),
			plancheck.ExpectKnownValue(webAddress, addresses, other)),
		step(func() {
			guest(t, world, "web").Impact = &agentapi.Impact{Level: agentapi.Level_SOFT_REBOOT, Strategy: "soft_reboot"}
		}, config(debian(unpatched), `refresh = { strategy = "soft_reboot", max_impact = "soft_reboot" }`), other,
			action(webAddress, plancheck.ResourceActionUpdate), plancheck.ExpectUnknownValue(webAddress, addresses)),
		step(func() { guest(t, world, "web").Impact = nil }, config(debian(patched), ""), other,
			action(webAddress, plancheck.ResourceActionUpdate),
			plancheck.ExpectKnownValue(webAddress, addresses, other)),
		step(nil, config(debian(patched), reboot("vcpus = 2")), other,
			action(webAddress, plancheck.ResourceActionUpdate), plancheck.ExpectUnknownValue(webAddress, addresses)),
		step(nil, config(debian(patched), reboot("vcpus = 2\nrunning = false")), none,
			plancheck.ExpectKnownValue(webAddress, addresses, none)),
		step(say("10.0.0.2", "2001:db8::2"), config(debian(patched), reboot("vcpus = 2")), two,
			plancheck.ExpectUnknownValue(webAddress, addresses)),
		resource.TestStep{
			ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
			ImportStateVerifyIdentifierAttribute: "name",
			ImportStateVerifyIgnore:              []string{"refresh", "agent.ready_seconds", "impact", "last_refresh"},
		},
		step(func() { must(t, world.Domains.PowerOff(t.Context(), "web")) },
			config(debian(patched), reboot("vcpus = 2\nrunning = false")), none,
			action(webAddress, plancheck.ResourceActionNoop)),
	)
}

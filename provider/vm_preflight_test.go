package provider_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// named is the VM of web, as another resource and with another name.
func named(address, name, body string) string {
	return strings.NewReplacer(`"web" {`, `"`+address+`" {`, `name   = "web"`, `name   = "`+name+`"`).Replace(web(body))
}

// TestWhatTheHostCannotDoIsRefusedByThePlan: nothing is made before a plan with one of these mistakes is refused.
func TestWhatTheHostCannotDoIsRefusedByThePlan(t *testing.T) {
	world := newWorld(t)
	world.SetBusyPorts(2222)
	world.Domains.AddForeign("foreign", "22222222-2222-4333-8444-555555555555")
	forward := func(port string) string {
		return `interfaces = { lan = { user = { forwards = { "` + port + `" = 22 } } } }`
	}
	const mac = `interfaces = { lan = { bridge = "br0", mac = "52:54:00:00:00:01" } }`
	graphics := func(port string) string { return `graphics = { port = ` + port + ` }` }
	const device = `host_devices = { stick = { usb = "1d6b:0002" } }`
	world.Domains.Devices = []hypervisor.HostDevice{{USB: "1d6b:0002"}}
	const volume = `disks = { data = { volume = "shared" } }`
	steps := []resource.TestStep{}
	for _, mistake := range []struct {
		config string
		want   []string
	}{
		{named("web", "foreign", ""), []string{`Unable to plan VM "foreign"`, "name", "not made by sharedos"}},
		{web("") + named("other", "web", ""), []string{`Unable to plan VM "web"`, "another resource of this configuration has the same name"}},
		{web(forward("2222")), []string{"port 2222 of the host's 127.0.0.1 is in use", "ss -ltnp"}},
		{web(forward("8080")) + named("other", "other", forward("8080")), []string{"port 8080", "is forwarded to VM", "too"}},
		{web("running = false\n"+forward("8080")) + named("other", "other", forward("8080")), []string{"port 8080", "is forwarded to VM", "too"}},
		{web(mac) + named("other", "other", mac), []string{"MAC address 52:54:00:00:00:01", "that of VM", "too"}},
		{web(volume) + named("other", "other", volume), []string{`volume "shared"`, "is a disk of VM", "read_only"}},
		{web(graphics("2222")), []string{"port 2222 of the host is in use", "libvirt then chooses one"}},
		{web(graphics("5999")) + named("other", "other", graphics("5999")),
			[]string{"port 5999 of the host is that of the graphics of VM", "too"}},
		{web(device) + named("other", "other", device), []string{"device 1d6b:0002 of the host is passed through to VM", "too"}},
		{web(`interfaces = { lan = { bridge = "br0", queues = 2 } }`),
			[]string{"2 queues, and the VM has at most 1 processors", "Set queues to"}},
		{web(`interfaces = { lan = { bridge = "br0", vlan = 7 } }`),
			[]string{`bridge "br0" does not filter VLANs`, "vlan_filtering 1"}},
		{web(`interfaces = { lan = { bridge = "br9" } }`), []string{`no bridge "br9"`, "ip link add br9 type bridge"}},
		{web(`interfaces = { lan = { network = "lab" } }`), []string{`no network "lab"`, "net-list"}},
		{sized("65GiB", "4GiB", ""), []string{"the host has 65536 MiB", "Set memory to less"}},
		{sized("512MiB", "2TiB", ""), []string{`storage pool "sharedos" has 1048576 MiB`, "disk.size"}},
		{
			strings.Replace(web(""), "sharedos_base.debian.release", `"sha256:`+strings.Repeat("0", 64)+`"`, 1),
			[]string{`Unable to plan VM "web"`, "there is no release sha256:0000", "sharedos_base"},
		},
	} {
		steps = append(steps, resource.TestStep{
			Config: debian(patched) + mistake.config, PlanOnly: true, ExpectError: says(mistake.want...),
		})
	}
	check(t, world, steps...)
	for _, call := range world.Calls() {
		if strings.HasPrefix(call, "Create") || strings.HasPrefix(call, "Publish") {
			t.Errorf("the plans called %s", call)
		}
	}
}

// TestAVMThatIsReplacedKeepsItsNameAndPorts: the plan of a replacement is not a plan for two VMs.
func TestAVMThatIsReplacedKeepsItsNameAndPorts(t *testing.T) {
	world := newWorld(t)
	config := debian(patched) + web(`interfaces = { lan = { user = { forwards = { "8080" = 22 } } } }`)
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{Config: config, Taint: []string{webAddress},
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionDestroyBeforeCreate))},
		// Another name is another VM, which may have the ports.
		resource.TestStep{
			Config:           strings.Replace(config, `name   = "web"`, `name   = "web2"`, 1),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionDestroyBeforeCreate)),
		},
	)
}

func TestAHealthCheckThatFailsBeforeARefresh(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	checks := func(more string) string {
		return own.base() + web(`refresh = { health_checks = { web = { command = ["no-such-program"] } }
`+more+` }`)
	}
	check(t, world,
		resource.TestStep{Config: checks("")},
		resource.TestStep{
			PreConfig: func() {
				guest(t, world, "web").Impact = &agentapi.Impact{Level: agentapi.Level_RELOAD,
					FailingChecks: []string{"web: no-such-program: not found"}}
				own.set("2")()
			},
			Config: checks("require_checks = true"), PlanOnly: true,
			ExpectError: says(`Unable to plan VM "web"`, "require_checks is set",
				"web: no-such-program: not found", "Nothing was changed"),
		},
		// Without it, the refresh goes on.
		resource.TestStep{Config: checks(""),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate))},
	)
}

// TestAVMThatDoesNotStartSaysWhatItLacks: the network was stopped after the plan.
func TestAVMThatDoesNotStartSaysWhatItLacks(t *testing.T) {
	world := newWorld(t)
	config := func(running string) string {
		return debian(patched) + web("running = "+running+"\ninterfaces = { lan = { network = \"default\" } }")
	}
	check(t, world,
		resource.TestStep{Config: config("false")},
		resource.TestStep{
			PreConfig: func() {
				world.SetHook(func(_ context.Context, operation, _, step string) error {
					if operation == "Update" && step == providertest.Begun {
						world.Domains.Networks["default"] = false
					}
					return nil
				})
				world.Domains.Fail = func(method, _ string) error {
					if method == "Start" {
						return errors.New("network is not active")
					}
					return nil
				}
			},
			Config: config("true"),
			ExpectError: says(`Unable to start VM "web"`, `the libvirt network "default" is not active`,
				"virsh net-start default"),
		},
		resource.TestStep{
			PreConfig: func() {
				world.SetHook(nil)
				world.Domains.Fail, world.Domains.Networks["default"] = nil, true
			},
			Config: config("true"),
		},
	)
}

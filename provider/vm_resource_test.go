package provider_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/compare"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

const webAddress = "sharedos_vm.web"

// sized is a VM with the base of function debian.
func sized(memory, disk, body string) string {
	return fmt.Sprintf(`
resource "sharedos_vm" "web" {
  name   = "web"
  base   = sharedos_base.debian.release
  memory = %q
  disk   = { size = %q }
  %s
}
`, memory, disk, body)
}

func web(body string) string { return sized("512MiB", "4GiB", body) }

const detailed = `
  hostname            = "web.example"
  vcpus               = 2
  ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM/HSNBZ58CJGJOtPdqLOrTGKe+HWpA5fRGvDgjq7I0y one", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH/jU0AtRI5r3WYuTVsH54zR4UT/hSVqAjbDmXUwp9OQ two"]
  interfaces = {
    lan  = { user = { forwards = { "8080" = 80, "2222" = 22 } } }
    out  = { user = {} }
    back = { bridge = "br0" }
    net  = { network = "default" }
  }
  refresh = {
    max_impact = "reload"
    policy = "reload"
    restart_timeout = "1m30s"
    keep_files = ["/etc/motd", "/etc/ssl/*"]
    purge = true
    units = {
      "db.service"  = { policy = "report" }
      "web.service" = { paths = ["/etc/web/"] }
    }
    health_checks = {
      web  = { unit = "nginx.service" }
      page = { http = "http://127.0.0.1/", timeout = "10s" }
      port = { tcp = "127.0.0.1:22" }
      own  = { command = ["/bin/true", "x"] }
    }
  }
`

func TestAVMIsCreatedReadAndImported(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{
			Config: debian(patched) + web(detailed),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectUnknownValue(webAddress, attribute("uuid")),
				plancheck.ExpectKnownValue(webAddress, attribute("stack").AtMapKey("id"), anID),
				plancheck.ExpectKnownValue(webAddress, attribute("state"), knownvalue.StringExact("running")),
				plancheck.ExpectKnownValue(webAddress, attribute("impact"), knownvalue.Null()),
				plancheck.ExpectKnownValue(webAddress, attribute("last_refresh"), knownvalue.Null()),
				plancheck.ExpectKnownValue(webAddress, attribute("running"), knownvalue.Bool(true)),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("uuid"), knownvalue.StringRegexp(regexp.MustCompile(
					`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`))),
				value(webAddress, attribute("state"), knownvalue.StringExact("running")),
				value(webAddress, attribute("agent"), knownvalue.ObjectExact(map[string]knownvalue.Check{
					"version": knownvalue.StringExact("test"), "digest": knownvalue.Null(),
					"refused": knownvalue.Null(), "kernel": knownvalue.NotNull(),
					"ready_seconds": knownvalue.NotNull(), "answering": knownvalue.Bool(true),
				})),
				value(webAddress, attribute("stack").AtMapKey("layers"),
					knownvalue.ListExact([]knownvalue.Check{anID})),
				value(webAddress, attribute("pending"), knownvalue.ListSizeExact(0)),
				statecheck.CompareValuePairs(webAddress, attribute("stack").AtMapKey("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
			},
		},
		resource.TestStep{
			ResourceName: webAddress, ImportState: true, ImportStateId: "web",
			ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
			// Only the configuration has the policy, and only the apply that started the VM knows how long that took.
			ImportStateVerifyIgnore: []string{"refresh", "agent.ready_seconds"},
		},
		resource.TestStep{
			PreConfig: func() {
				domain, _, err := world.VM(t.Context(), "web")
				if err != nil {
					t.Fatal(err)
				}
				lan, out := domain.Interfaces["lan"].User, domain.Interfaces["out"].User
				if lan == nil || out == nil || !maps.Equal(lan.Forwards, map[uint16]uint16{8080: 80, 2222: 22}) ||
					len(out.Forwards) != 0 ||
					domain.Interfaces["back"].Bridge != "br0" || domain.Interfaces["net"].Network != "default" {
					t.Errorf("interfaces %+v", domain.Interfaces)
				}
				if domain.VCPUs != 2 || domain.Memory != 512<<20 {
					t.Errorf("the domain has %d processors and %d bytes", domain.VCPUs, domain.Memory)
				}
			},
			Config:           debian(patched) + web(detailed),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
		},
	)
}

func TestAPatchReachesARunningVMInPlace(t *testing.T) {
	uuid := statecheck.CompareValue(compare.ValuesSame())
	check(t, newWorld(t),
		resource.TestStep{
			Config:            debian(unpatched) + web(""),
			ConfigStateChecks: []statecheck.StateCheck{uuid.AddStateValue(webAddress, attribute("uuid"))},
		},
		resource.TestStep{
			Config: debian(patched) + web(""),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("base"), anID),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("restart")),
				plancheck.ExpectKnownValue(webAddress, attribute("stack").AtMapKey("id"), anID),
				plancheck.ExpectKnownValue(webAddress, attribute("uuid"), knownvalue.NotNull()),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				uuid.AddStateValue(webAddress, attribute("uuid")),
				statecheck.CompareValuePairs(webAddress, attribute("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
				statecheck.CompareValuePairs(webAddress, attribute("stack").AtMapKey("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
				value(webAddress, attribute("impact").AtMapKey("level"), knownvalue.StringExact("restart")),
				value(webAddress, attribute("last_refresh").AtMapKey("committed"), knownvalue.Bool(true)),
				value(webAddress, attribute("last_refresh").AtMapKey("delta_bytes"), positive),
				value(webAddress, attribute("last_refresh").AtMapKey("restarted"),
					knownvalue.MapExact(map[string]knownvalue.Check{
						"nginx.service": knownvalue.ObjectExact(map[string]knownvalue.Check{
							"level":           knownvalue.StringExact("restart"),
							"interruption_ms": knownvalue.Float64Exact(12.5),
							"error":           knownvalue.Null(),
						}),
					})),
				// The kernel that it booted is still running.
				value(webAddress, attribute("pending"), knownvalue.ListSizeExact(1)),
			},
		},
	)
}

func TestTheRefreshPolicyReachesTheAgent(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	check(t, world,
		resource.TestStep{Config: own.base() + web(detailed)},
		resource.TestStep{
			PreConfig: func() {
				guest(t, world, "web").Impact = &agentapi.Impact{Level: agentapi.Level_RELOAD}
				own.set("2")()
			},
			Config: own.base() + web(detailed),
		},
		resource.TestStep{
			PreConfig: func() {
				asked := guest(t, world, "web").Asked()
				var checks []string
				for _, check := range asked.GetHealthChecks() {
					checks = append(checks, fmt.Sprintf("%s %d", check.GetName(), check.GetTimeoutMs()))
				}
				if want := []string{"own 30000", "page 10000", "port 30000", "web 30000"}; !slices.Equal(checks, want) {
					t.Errorf("health checks %v, want %v", checks, want)
				}
				if asked.GetMaxImpact() != agentapi.Level_RELOAD || asked.GetSettleMs() != 5000 ||
					asked.GetRestartTimeoutMs() != 90_000 || asked.GetAllowDowngrade() || !asked.GetPurge() ||
					!slices.Equal(asked.GetKeepFiles(), []string{"/etc/motd", "/etc/ssl/*"}) {
					t.Errorf("it was asked %v", asked)
				}
				want := &agentapi.UnitPolicy{
					Default: "reload", Units: map[string]string{"db.service": "report"},
					Paths: map[string]*agentapi.PathList{"web.service": {Paths: []string{"/etc/web/"}}},
				}
				// The assessment of the plan uses the same policy.
				assessed := guest(t, world, "web").Assessed()
				if !proto.Equal(asked.GetPolicy(), want) || !proto.Equal(assessed.GetPolicy(), want) {
					t.Errorf("it was asked with the policy %v, and assessed with %v",
						asked.GetPolicy(), assessed.GetPolicy())
				}
			},
			Config:           own.base() + web(detailed),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
		},
	)
}

func TestAPlanShowsWhatIsInterrupted(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	// The processes in a guest change all the time, but the impact in a plan must stay the same during its apply.
	var asked atomic.Int64
	restless := func(_ context.Context, operation, name, step string) error {
		if operation == "Assess" && step == providertest.Begun {
			guest(t, world, name).Impact = &agentapi.Impact{Level: agentapi.Level_RESTART,
				Units: []*agentapi.UnitImpact{
					{
						Unit: fmt.Sprintf("run-%d.service", asked.Add(1)), Level: agentapi.Level_RESTART,
						Reason: "maps libssl.so.3",
						Paths:  []string{"/usr/lib/libssl.so.3"}, Packages: []string{"libssl3t64"},
					},
				}, Left: []string{"db.service: it runs code that differs; the policy is to report it"},
				Sessions: []string{"session-1.scope 7 bash"}}
		}
		return nil
	}
	level := attribute("impact").AtMapKey("level")
	check(t, world,
		resource.TestStep{Config: own.base() + web("")},
		resource.TestStep{
			PreConfig: func() { own.set("2")(); world.SetHook(restless) }, Config: own.base() + web(""),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, level, knownvalue.StringExact("restart")),
				plancheck.ExpectKnownValue(webAddress,
					attribute("impact").AtMapKey("units").AtMapKey("run-1.service").AtMapKey("reason"),
					knownvalue.StringExact("maps libssl.so.3")),
				plancheck.ExpectKnownValue(webAddress,
					attribute("impact").AtMapKey("units").AtMapKey("run-1.service").AtMapKey("packages"),
					knownvalue.ListExact([]knownvalue.Check{knownvalue.StringExact("libssl3t64")})),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("left"),
					knownvalue.ListSizeExact(1)),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("sessions"),
					knownvalue.ListSizeExact(1)),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, level, knownvalue.StringExact("restart"))},
		},
	)
	if asked.Load() == 0 {
		t.Error("no plan asked the guest")
	}
}

func TestALargerImpactThanAllowedFailsThePlan(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	tooMuch := &agentapi.Impact{
		Level:   agentapi.Level_SOFT_REBOOT,
		Reasons: []string{"dbus-daemon changed \x1b[31mand cannot be restarted live"},
		Units: []*agentapi.UnitImpact{{Unit: "nginx.service", Level: agentapi.Level_RESTART,
			Reason: "maps libssl.so.3"}},
	}
	check(t, world,
		resource.TestStep{Config: own.base() + web("")},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").Impact = tooMuch; own.set("2")() }, Config: own.base() + web(""),
			ExpectError: says(`Unable to change VM "web"`,
				"the impact is soft_reboot, and refresh.max_impact allows restart",
				"dbus-daemon changed [31mand cannot be restarted live", "nginx.service: restart, maps libssl.so.3",
				`Set refresh.max_impact and refresh.strategy to "soft_reboot"`),
		},
		resource.TestStep{PreConfig: own.set("1"), Config: own.base() + web(""),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop))},
		resource.TestStep{
			PreConfig: own.set("2"),
			Config:    own.base() + web(`refresh = { max_impact = "kexec", strategy = "soft_reboot" }`),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("soft_reboot")),
			),
		},
		// Processors can change only through a power-off.
		resource.TestStep{
			Config: own.base() + web(`vcpus = 2`),
			ExpectError: says("the impact is reboot, and refresh.max_impact allows restart",
				"only through a power-off"),
		},
	)
}

func TestAChangeAboveTheStrategyIsPendingUntilTheStrategyAllowsIt(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	config := func(refresh string) string { return own.base() + web("refresh = { "+refresh+" }") }
	loader := &agentapi.Impact{Level: agentapi.Level_SOFT_REBOOT, Reasons: []string{"the dynamic loader differs"}}
	runs := statecheck.CompareValue(compare.ValuesSame())
	const live = `max_impact = "reboot"`
	check(t, world,
		resource.TestStep{
			Config: config(live),
			ConfigStateChecks: []statecheck.StateCheck{runs.AddStateValue(webAddress,
				attribute("stack").AtMapKey("base"))},
		},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").Impact = loader; own.set("2")() }, Config: config(live),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("none")),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				runs.AddStateValue(webAddress, attribute("stack").AtMapKey("base")),
				statecheck.CompareValuePairs(webAddress, attribute("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
				statecheck.ExpectKnownValue(webAddress, attribute("pending"), knownvalue.ListSizeExact(1)),
			},
		},
		resource.TestStep{Config: config(live),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop))},
		resource.TestStep{
			Config: config(live + `, strategy = "soft_reboot"`),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("soft_reboot")),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				statecheck.CompareValuePairs(webAddress, attribute("stack").AtMapKey("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
				// The new kernel is still pending.
				statecheck.ExpectKnownValue(webAddress, attribute("pending"),
					knownvalue.ListExact([]knownvalue.Check{knownvalue.StringRegexp(regexp.MustCompile("^kernel "))})),
			},
		},
	)
}

func TestNextBootInterruptsNothing(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	config := func(more string) string {
		return own.base() + web(`refresh = { strategy = "next_boot" }`+"\n"+more)
	}
	runs := statecheck.CompareValue(compare.ValuesSame())
	check(t, world,
		resource.TestStep{
			Config: config(""),
			ConfigStateChecks: []statecheck.StateCheck{runs.AddStateValue(webAddress,
				attribute("stack").AtMapKey("base"))},
		},
		resource.TestStep{
			PreConfig: own.set("2"), Config: config(""),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("none")),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				// Until it is started, it runs the same stack.
				runs.AddStateValue(webAddress, attribute("stack").AtMapKey("base")),
				statecheck.CompareValuePairs(webAddress, attribute("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
			},
		},
		resource.TestStep{Config: config("running = false")},
		resource.TestStep{
			Config: config(""),
			ConfigStateChecks: []statecheck.StateCheck{
				statecheck.CompareValuePairs(webAddress, attribute("stack").AtMapKey("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
			},
		},
	)
}

// A running VM cannot be refreshed to another base, which has its own accounts and package database.
func TestAnotherBaseWaitsForTheNextStart(t *testing.T) {
	world, own, foreign := newWorld(t), newImage(t), newImage(t)
	foreign.set("3")()
	bases := own.base() + strings.NewReplacer(`"debian"`, `"foreign"`, `"own"`, `"foreign"`).Replace(foreign.base())
	onForeign := func(body string) string {
		return bases + strings.Replace(web(body), "sharedos_base.debian", "sharedos_base.foreign", 1)
	}
	check(t, world,
		resource.TestStep{Config: bases + web("")},
		resource.TestStep{
			Config: onForeign(""),
			ExpectError: says(`Unable to plan VM "web"`, "a running VM cannot be moved to this release",
				`it is of base "foreign"`,
				`the VM runs base "own"`, "next_boot"),
		},
		resource.TestStep{
			Config:           onForeign(`refresh = { strategy = "next_boot" }`),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("stack").AtMapKey("next"), knownvalue.NotNull()),
				value(webAddress, attribute("stack").AtMapKey("awaits_power_cycle"), knownvalue.Bool(true)),
			},
		},
	)
}

// What is no stack fails the plan, of a new VM as of one that runs; the apply before it changed nothing of the VM.
func TestReleasesThatDoNotMakeAStackFailThePlan(t *testing.T) {
	world, own, foreign := newWorld(t), newImage(t), newImage(t)
	foreign.set("3")()
	bases := own.base() + strings.NewReplacer(`"debian"`, `"foreign"`, `"own"`, `"foreign"`).Replace(foreign.base())
	withBase := bases + web("components = [sharedos_base.foreign.release]")
	wrongKind := says(`Unable to plan VM "web"`, "a release is of the wrong kind", `base "foreign"`,
		"give releases of components as components")
	check(t, world,
		resource.TestStep{Config: bases},
		resource.TestStep{Config: withBase, ExpectError: wrongKind},
		resource.TestStep{Config: bases + web("")},
		resource.TestStep{Config: withBase, ExpectError: wrongKind},
		resource.TestStep{
			Config:           bases + web(""),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("stack").AtMapKey("id"), knownvalue.NotNull()),
				value(webAddress, attribute("stack").AtMapKey("next"), knownvalue.Null()),
				value(webAddress, attribute("stack").AtMapKey("awaits_power_cycle"), knownvalue.Bool(false)),
			},
		},
	)
}

func TestAVMWhoseAgentDoesNotAnswerStaysInState(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	config := own.base() + web("")
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			PreConfig: func() { world.Guests.Silence("web", true) }, Config: config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("agent").AtMapKey("answering"), knownvalue.Bool(false)),
				value(webAddress, attribute("agent").AtMapKey("kernel"), knownvalue.NotNull()),
				value(webAddress, attribute("state"), knownvalue.StringExact("running")),
			},
		},
		// The plan cannot show the impact, and the apply refuses the change.
		resource.TestStep{
			PreConfig: own.set("2"), Config: config,
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{plancheck.ExpectUnknownValue(
				webAddress, attribute("impact"))}},
			ExpectError: says(`Unable to update VM "web"`, "the agent does not answer", "nothing was changed"),
		},
		resource.TestStep{
			PreConfig: func() { world.Guests.Silence("web", false) }, Config: config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
		},
	)
}

// A broken agent must not prevent its VM from being planned or destroyed.
func TestAGuestThatReportsNoStackIsTreatedLikeOneThatDoesNotAnswer(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	config := own.base() + web("")
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").NoStack = true }, Config: config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("agent").AtMapKey("answering"), knownvalue.Bool(false)),
			},
		},
	)
}

func TestARolledBackRefreshIsTriedAgain(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: debian(unpatched) + web("")},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").RefreshError = "health check page failed: connection refused" },
			Config:    debian(patched) + web(""),
			ExpectError: says(`Unable to refresh VM "web"`, "rolled back",
				"health check page failed: connection refused", "step: waiting for the refresh",
				"runs what it ran before"),
		},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").RefreshError = "" }, Config: debian(patched) + web(""),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionNoop), // it was published all the same
				action(webAddress, plancheck.ResourceActionUpdate),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("last_refresh").AtMapKey("committed"), knownvalue.Bool(true)),
			},
		},
	)
}

func TestAGuestThatRunsAnotherStackThanItsDefinitionIsRefreshed(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	config := own.base() + web("")
	var first release.Stack
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			PreConfig: func() { first = guest(t, world, "web").Stack(); own.set("2")() }, Config: config,
		},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").FallBack(first) }, Config: config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{
				statecheck.CompareValuePairs(webAddress, attribute("stack").AtMapKey("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
			},
		},
	)
}

func TestAVMOfTheSameNameIsNotTakenOver(t *testing.T) {
	world := newWorld(t)
	other := strings.Replace(web("depends_on = [sharedos_vm.web]"), `"web" {`, `"other" {`, 1)
	check(t, world,
		resource.TestStep{Config: debian(patched) + web("")},
		resource.TestStep{
			Config: debian(patched) + web("") + other,
			ExpectError: says(`Unable to plan VM "web"`, "Another resource of this configuration has the same name",
				"Give each of them a name of its own"),
		},
		resource.TestStep{
			PreConfig: func() {
				must(t, world.DropVM(t.Context(), "web"))
				world.Domains.AddForeign("foreign", "22222222-2222-4333-8444-555555555555")
			},
			Config:      debian(patched) + strings.Replace(web(""), `name   = "web"`, `name   = "foreign"`, 1),
			ExpectError: says(`Unable to plan VM "foreign"`, "not made by sharedos", "Nothing of it is touched"),
		},
	)
	if _, _, err := world.Domains.Lookup(t.Context(), "foreign"); !errors.Is(err, hypervisor.ErrForeign) {
		t.Errorf("the domain of somebody else: %v", err)
	}
}

func TestAVMThatIsGoneIsMadeAgain(t *testing.T) {
	world := newWorld(t)
	config := debian(patched) + web("")
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			PreConfig: func() { must(t, world.DropVM(t.Context(), "web")) }, Config: config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionCreate)),
		},
		// Another VM with the same name is not the VM in state.
		resource.TestStep{
			PreConfig: func() { must(t, world.Reidentify(t.Context(), "web", "00000000-0000-4000-8000-000000000000")) },
			Config:    config,
			ExpectError: says(`Unable to plan VM "web"`, "exists already", "UUID 00000000-0000-4000-8000-000000000000",
				"terraform import with the address", "and web"),
		},
		resource.TestStep{
			PreConfig: func() {
				if left, err := world.VMs(t.Context()); err != nil || !slices.Equal(left, []string{"web"}) {
					t.Errorf("the other VM was not left alone: %v, %v", left, err)
				}
				must(t, world.DropVM(t.Context(), "web"))
			},
			Config: debian(patched),
		},
	)
}

func TestPower(t *testing.T) {
	world := newWorld(t)
	config := debian(patched) + web("")
	state := attribute("state")
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			Config:            debian(patched) + web("running = false"),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, state, knownvalue.StringExact("off"))},
		},
		resource.TestStep{
			Config:            config,
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, state, knownvalue.StringExact("running"))},
		},
		resource.TestStep{
			PreConfig: func() {
				guest(t, world, "web").Off()
				world.Domains.SetState(
					"web", hypervisor.Crashed)
			},
			Config:            config,
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, state, knownvalue.StringExact("running"))},
		},
		resource.TestStep{
			PreConfig: func() { world.Domains.SetState("web", hypervisor.Paused) }, Config: config,
			ExpectError: says(`Unable to update VM "web"`, "paused"),
		},
	)
}

func TestSizes(t *testing.T) {
	config := func(memory, disk string) string {
		return debian(patched) + sized(memory, disk, `refresh = { max_impact = "reboot" }`)
	}
	check(t, newWorld(t),
		resource.TestStep{Config: config("1GiB", "4GiB")},
		// Another text for the same size is not a change.
		resource.TestStep{Config: config("1024MiB", "4096MiB"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop))},
		resource.TestStep{
			Config:           config("1536MiB", "8GiB"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("disk").AtMapKey("size"),
				knownvalue.StringExact("8GiB"))},
		},
		// Growing the disk interrupts nothing, so it is possible with every max_impact.
		resource.TestStep{
			Config: debian(patched) + sized("1536MiB", "12GiB", `refresh = { max_impact = "none" }`),
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("none")),
				plancheck.ExpectUnknownValue(webAddress, attribute("agent")),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("disk").AtMapKey("size"),
				knownvalue.StringExact("12GiB"))},
		},
		resource.TestStep{
			Config: config("1536MiB", "4GiB"),
			ExpectError: says(`Unable to plan VM "web"`, "its private disk has 12GiB and cannot shrink to 4GiB",
				"Set disk.size to 12GiB or more"),
		},
	)
}

func TestAFailedCreateIsInStateAndNothingIsLeft(t *testing.T) {
	world := newWorld(t)
	config := debian(patched) + web("")
	check(t, world,
		resource.TestStep{
			PreConfig: func() {
				world.Volumes.Fail = func(method, _ string) error {
					if method == "CreatePrivateDisk" {
						return errors.New("no space left on device")
					}
					return nil
				}
			},
			Config:      config,
			ExpectError: says(`Unable to create VM "web"`, "no space left on device", "step: making the private disk"),
		},
		// No domain was defined, so the next plan creates it.
		resource.TestStep{
			PreConfig: func() {
				world.Volumes.Fail = nil
				world.Guests.Silence("web", true)
				must(t, world.Say("web", "Booting\nKernel panic - not syncing\n"))
			},
			// Long enough for a slow machine to come to the wait for the agent, which is what takes all of it.
			Config: debian(patched) + web(`timeouts = { create = "20s" }`),
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{action(webAddress,
				plancheck.ResourceActionCreate)}},
			ExpectError: says(`Unable to create VM "web"`, "Kernel panic", "step: waiting for the agent",
				"next apply replaces it", "terraform untaint"),
		},
		resource.TestStep{
			PreConfig: func() { world.Guests.Silence("web", false) }, Config: config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionDestroyBeforeCreate)),
		},
	)
}

// Pools of block devices allocate whole extents, so a private disk can be larger than configured.
func TestAPoolThatRoundsSizesUpCausesNoChange(t *testing.T) {
	world := newWorld(t)
	world.Volumes.Extent = 4 << 20
	grown := func(size string) resource.TestStep {
		return resource.TestStep{
			Config:           debian(patched) + sized("512MiB", size, "running = false"),
			ConfigPlanChecks: plans(),
			ConfigStateChecks: []statecheck.StateCheck{
				value(webAddress, attribute("disk").AtMapKey("size"), knownvalue.StringExact(size)),
			},
		}
	}
	check(t, world, grown("65MiB"), grown("65MiB"), grown("66MiB"), grown("97MiB"),
		resource.TestStep{
			ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
			ImportStateVerifyIdentifierAttribute: "name",
			ImportStateVerifyIgnore:              []string{"refresh", "last_refresh", "impact"},
		},
	)
}

// step is an element of a timeline.
func step(name string, ms float64) knownvalue.Check {
	return knownvalue.ObjectExact(map[string]knownvalue.Check{"step": knownvalue.StringExact(name),
		"ms": knownvalue.Float64Exact(ms)})
}

// What no plan of a VM is to repeat, a data source has.
func TestADataSourceHasTheDetailsOfARefresh(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	const found = "data.sharedos_vm.web"
	config := own.base() + web("") + `
data "sharedos_vm" "web" {
  name       = "web"
  depends_on = [sharedos_vm.web]
}
`
	details := attribute("last_refresh")
	check(t, world,
		resource.TestStep{Config: config, ConfigStateChecks: []statecheck.StateCheck{
			value(found, details, knownvalue.Null()),
			value(found, attribute("state"), knownvalue.StringExact("running")),
		}},
		resource.TestStep{PreConfig: own.set("2"), Config: config, ConfigStateChecks: []statecheck.StateCheck{
			value(found, details.AtMapKey("committed"), knownvalue.Bool(true)),
			value(found, details.AtMapKey("unaffected"),
				knownvalue.ListExact([]knownvalue.Check{knownvalue.StringExact("cron.service")})),
			value(found, details.AtMapKey("timings_ms").AtMapKey("swap"), knownvalue.Float64Exact(0.25)),
			value(found, details.AtMapKey("timeline"),
				knownvalue.ListExact([]knownvalue.Check{step("assess", 1.5), step("swap", 0.25)})),
			value(webAddress, details.AtMapKey("timeline"), knownvalue.StringExact("assess 1.5 ms, swap 0.2 ms")),
			statecheck.CompareValuePairs(found, attribute("stack").AtMapKey("id"), webAddress,
				attribute("stack").AtMapKey("id"), compare.ValuesSame()),
		}},
		resource.TestStep{
			Config:      config + "\ndata \"sharedos_vm\" \"none\" {\n  name = \"none\"\n}\n",
			ExpectError: says(`Unable to find VM "none"`),
		},
	)
}

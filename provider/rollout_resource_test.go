package provider_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

const rolloutAddress = "sharedos_rollout.web"

// fleetOf has VMs with these names, and a rollout that moves them.
func fleetOf(names, body string) string {
	return fmt.Sprintf(`
resource "sharedos_vm" "web" {
  for_each = toset(%s)
  name     = each.key
  base     = sharedos_base.debian.release
  memory   = "512MiB"
  disk     = { size = "4GiB" }
  refresh = {
    by            = "rollout"
    health_checks = { web = { unit = "nginx.service" } }
  }
}

resource "sharedos_rollout" "web" {
  base  = sharedos_base.debian.release
  vms   = [for vm in sharedos_vm.web : vm.name]
  waves = ["1", "100%%"]
  soak  = "0s"
  %s
}
`, names, body)
}

const three = `["a", "b", "c"]`

// bases are the releases of the base that the guests run.
func bases(t *testing.T, world *providertest.World, names ...string) (all []string) {
	t.Helper()
	for _, name := range names {
		domain, stack, err := world.VM(t.Context(), name)
		must(t, err)
		if !stack.Same(domain.Metadata.Stack) {
			t.Errorf("%s runs another stack than its definition has", name)
		}
		all = append(all, stack.Base.String())
	}
	return all
}

// moves are the VMs that were moved and taken back, in this order.
func moves(world *providertest.World) (all []string) {
	for _, call := range world.Calls() {
		if strings.HasPrefix(call, "Move ") || strings.HasPrefix(call, "TakeBack ") {
			all = append(all, call)
		}
	}
	return all
}

func TestARolloutReachesItsVMsInWaves(t *testing.T) {
	world := newWorld(t)
	own := newImage(t)
	// The test framework cannot read a state with for_each.
	counted := strings.NewReplacer("for_each = toset("+three+")", "count = 3", "each.key", three+"[count.index]")
	config := own.base() + counted.Replace(fleetOf(three, ""))
	states := func(want string) knownvalue.Check {
		all := map[string]knownvalue.Check{}
		for i, name := range []string{"a", "b", "c"} {
			all[name] = knownvalue.ObjectPartial(map[string]knownvalue.Check{
				"state": knownvalue.StringExact(want), "wave": knownvalue.Int64Exact(int64(min(i, 1) + 1)),
				"why": knownvalue.Null(),
			})
		}
		return knownvalue.MapExact(all)
	}
	first := attribute("impact").AtSliceIndex(0).AtMapKey("vms").AtMapKey("a")
	check(t, world,
		resource.TestStep{
			Config: config,
			ConfigPlanChecks: plans(action(rolloutAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectUnknownValue(rolloutAddress, attribute("results"))),
			ConfigStateChecks: []statecheck.StateCheck{
				value(rolloutAddress, attribute("results"), states("current")),
				value(rolloutAddress, attribute("complete"), knownvalue.Bool(true)),
			},
		},
		resource.TestStep{
			PreConfig: func() { own.set("2")(); world.ForgetCalls() },
			Config:    config,
			ConfigPlanChecks: plans(
				action(rolloutAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(rolloutAddress, first.AtMapKey("level"), knownvalue.StringExact("restart")),
				plancheck.ExpectKnownValue(rolloutAddress, first.AtMapKey("units"),
					knownvalue.MapExact(
						map[string]knownvalue.Check{"nginx.service": knownvalue.StringExact("restart")})),
				plancheck.ExpectKnownValue(rolloutAddress, attribute("impact").AtSliceIndex(1).AtMapKey("vms"),
					knownvalue.MapSizeExact(2)),
				plancheck.ExpectUnknownValue(rolloutAddress, attribute("complete")),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				value(rolloutAddress, attribute("results"), states("updated")),
				value(rolloutAddress, attribute("complete"), knownvalue.Bool(true)),
				value(rolloutAddress, attribute("progress").AtSliceIndex(1),
					knownvalue.ObjectExact(map[string]knownvalue.Check{
						"vms": knownvalue.Int64Exact(2), "updated": knownvalue.Int64Exact(2),
						"failed": knownvalue.Int64Exact(0), "state": knownvalue.StringExact("done"),
					})),
				value(rolloutAddress, attribute("results").AtMapKey("a").AtMapKey("interruption_ms"),
					knownvalue.Float64Exact(12.5)),
			},
		},
		resource.TestStep{
			PreConfig: func() {
				if got := moves(world); !slices.Equal(got, []string{"Move a", "Move b", "Move c"}) {
					t.Errorf("moves: %v", got)
				}
				running := bases(t, world, "a", "b", "c")
				if running[0] != running[1] || running[1] != running[2] {
					t.Errorf("the VMs run %v", running)
				}
			},
			Config: config, PlanOnly: true,
		},
	)
}

// A patch that breaks the service stops at the canary, which has its old stack again; the mended one reaches all.
func TestARolloutStopsAtABrokenCanaryAndGoesOnWhenMended(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+fleetOf(three, ""))
	s.run("apply", "-auto-approve")
	before := bases(t, world, "a", "b", "c")
	own.set("2")()
	world.SetHook(func(_ context.Context, operation, name, step string) error {
		if operation == "Move" && step == providertest.Done {
			guest(t, world, name).SetUnhealthy("web", "nginx.service is failed: bind() to 0.0.0.0:80 failed")
		}
		return nil
	})
	said := fails(s)
	for _, want := range []string{"Unable to roll out release sha256:", `VM "a"`, "a health check fails:",
		"guest| web: ", "bind() to 0.0.0.0:80 failed", "wave 1 of 2",
		"2 were never touched", "starts again at the first wave"} {
		if !strings.Contains(unwrapped(said), want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
	if !slices.Equal(bases(t, world, "a", "b", "c"), before) {
		t.Error("the canary does not run its old stack again")
	}
	if guest(t, world, "b").Refreshes()+guest(t, world, "c").Refreshes() > 0 {
		t.Error("others were touched")
	}
	if one := s.rollout()["a"]; one.State != "failed" || one.FailedChecks["web"] == "" {
		t.Errorf("state: %+v", one)
	}
	world.SetHook(nil)
	guest(t, world, "a").SetUnhealthy("web", "")
	own.set("3")()
	world.ForgetCalls()
	s.run("apply", "-auto-approve")
	if got := moves(world); !slices.Equal(got, []string{"Move a", "Move b", "Move c"}) {
		t.Errorf("moves: %v", got)
	}
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}

func TestARolloutTakesBackWhatItHasMoved(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+fleetOf(three, `on_failure = "take_back_all"`))
	s.run("apply", "-auto-approve")
	before := bases(t, world, "a", "b", "c")
	own.set("2")()
	guest(t, world, "c").RefreshError = "it broke"
	if said := fails(s); !strings.Contains(unwrapped(said), "it broke") {
		t.Errorf("it does not say why:\n%s", said)
	}
	if !slices.Equal(bases(t, world, "a", "b", "c"), before) {
		t.Error("the VMs do not run what they ran before")
	}
	results := s.rollout()
	if results["a"].State != "taken_back" || results["b"].State != "taken_back" || results["c"].State != "failed" {
		t.Errorf("state: %+v", results)
	}
}

// Ctrl-C at any step: the next apply goes on.
func TestAnInterruptedRolloutGoesOn(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+fleetOf(three, ""))
	s.run("apply", "-auto-approve")
	for i, at := range []struct{ operation, step string }{
		{"Move", providertest.Begun}, {"Move", "refreshing"}, {"Move", providertest.Done}, {"Health", providertest.Begun}, {"Passed", providertest.Begun},
	} {
		own.set(fmt.Sprint(i + 2))()
		s.interrupt(at.operation, at.step)
		s.run("apply", "-auto-approve")
		if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
			t.Fatalf("interrupted at %v: the plan after the next apply is not empty:\n%s", at, said)
		}
		if running := bases(t, world, "a", "b", "c"); running[0] != running[1] || running[1] != running[2] {
			t.Errorf("interrupted at %v: the VMs run %v", at, running)
		}
	}
}

// VMs come and go, are off, do not answer, or were patched by hand.
func TestARolloutAmongVMsThatChange(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	config := func(names string) string { return own.base() + fleetOf(names, "max_unavailable = 2") }
	s := newSession(t, world, config(three))
	s.run("apply", "-auto-approve")
	own.set("2")()
	guest(t, world, "b").Off()
	s.configure(config(`["a", "b", "d"]`))
	said := s.run("apply", "-auto-approve", "-no-color")
	if !strings.Contains(unwrapped(said), "1 VMs do not have the release") {
		t.Errorf("it does not tell of the silent one:\n%s", said)
	}
	results := s.rollout()
	if len(results) != 3 || results["a"].State != "updated" || results["b"].State != "silent" ||
		results["d"].State != "current" {
		t.Errorf("state: %+v", results)
	}
	// One that does not answer is no reason for a plan.
	if said = s.run("plan", "-no-color"); !strings.Contains(said, "No changes") ||
		!strings.Contains(said, "cannot be moved") {
		t.Errorf("the plan with a silent VM:\n%s", said)
	}
	must(t, world.Domains.PowerOff(t.Context(), "b"))
	must(t, world.Domains.Start(t.Context(), "b"))
	if said = s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said, "1 changed") {
		t.Errorf("it answers again:\n%s", said)
	}
	if running := bases(t, world, "a", "b", "d"); running[0] != running[1] || running[1] != running[2] {
		t.Errorf("the VMs run %v", running)
	}
}

func TestARolloutPlansNothingThatAVMForbids(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+fleetOf(three, ""))
	s.run("apply", "-auto-approve")
	guest(t, world, "b").Impact = &agentapi.Impact{Level: agentapi.Level_REBOOT}
	own.set("2")()
	if said := fails(s); !strings.Contains(unwrapped(said), `VM "b": the impact is`) {
		t.Errorf("it says:\n%s", said)
	}
	if got := moves(world); len(got) > 0 {
		t.Errorf("moves: %v", got)
	}
}

func TestARolloutRefusesVMsThatTakeNoPart(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	part := strings.Replace(fleetOf(three, ""), `by            = "rollout"`, "", 1)
	s := newSession(t, world, own.base()+part)
	if said := fails(s); !strings.Contains(unwrapped(said), "does not take part in rollouts: a, b, c") {
		t.Errorf("it says:\n%s", said)
	}
	s.configure(own.base() + fleetOf(three, ""))
	s.run("apply", "-auto-approve")
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}

func TestTwoRolloutsCannotHaveOneVM(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+fleetOf(three, "")+`
resource "sharedos_rollout" "other" {
  base = sharedos_base.debian.release
  vms  = [sharedos_vm.web["b"].name]
}
`)
	if said := fails(s); !strings.Contains(unwrapped(said), `Another rollout of this configuration moves VM "b", too`) {
		t.Errorf("it says:\n%s", said)
	}
}

// A VM of a rollout does everything else by its own resource, and gets nothing new from it.
func TestAVMOfARolloutKeepsItsStack(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+sizedBy("512MiB", "rollout"))
	s.run("apply", "-auto-approve")
	before := bases(t, world, "web")
	own.set("2")()
	if said := s.run("plan", "-no-color"); strings.Contains(said, "sharedos_vm.web") &&
		strings.Contains(said, "# sharedos_vm.web will be") {
		t.Errorf("a new release changes the VM:\n%s", said)
	}
	s.configure(own.base() + sizedBy("1GiB", "rollout"))
	s.run("apply", "-auto-approve")
	domain, _, err := world.VM(t.Context(), "web")
	if must(t, err); domain.Memory != 1<<30 || !slices.Equal(bases(t, world, "web"), before) {
		t.Errorf("memory %d, base %v, before %v", domain.Memory, bases(t, world, "web"), before)
	}
	s.configure(own.base() + sizedBy("1GiB", "vm"))
	s.run("apply", "-auto-approve")
	if slices.Equal(bases(t, world, "web"), before) {
		t.Error("its own resource does not move it when no rollout does")
	}
}

// A VM whose definition has lost that it takes part in rollouts takes part again after the next apply.
func TestAVMOfARolloutTakesPartAgain(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	s := newSession(t, world, own.base()+sizedBy("512MiB", "rollout"))
	s.run("apply", "-auto-approve")
	domain, _, err := world.VM(t.Context(), "web")
	must(t, err)
	had := domain.Metadata.Rollout
	domain.Metadata.Rollout = nil
	must(t, world.Domains.SetMetadata(t.Context(), "web", domain.Metadata))
	if said := s.run("plan", "-no-color"); !strings.Contains(said, `"vm" -> "rollout"`) {
		t.Errorf("the plan does not show it:\n%s", said)
	}
	s.run("apply", "-auto-approve")
	if domain, _, err = world.VM(t.Context(), "web"); err != nil || domain.Metadata.Rollout == nil ||
		string(domain.Metadata.Rollout.Policy) != string(had.Policy) {
		t.Errorf("it takes part as %+v, %v", domain.Metadata.Rollout, err)
	}
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}

func sizedBy(memory, by string) string {
	return sized(memory, "4GiB", fmt.Sprintf(`refresh = { by = %q, max_impact = "reboot" }`, by))
}

// Two kinds of plans that the protocol can only show: values that are unknown, and the second planning of an apply.
func TestARolloutIsConsistent(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	c := newClient(t, world)
	base := applied(t, c, "sharedos_base", c.none("sharedos_base"),
		values{"name": "own", "archive": values{"path": own.path}})
	release := stringIn(t, base.value, "release")
	machine := applied(t, c, "sharedos_vm", c.none("sharedos_vm"), values{
		"name": "a", "base": release, "memory": "512MiB", "disk": values{"size": "4GiB"},
		"refresh": values{"by": "rollout", "strategy": "live", "max_impact": "restart", "settle": "0s",
			"policy": "restart"}, "vcpus": 1, "running": true,
		"hostname": "a", "detach_on_demand": false, "autostart": false, "deletion_protection": false,
	})
	_ = machine
	config := func(release any) values {
		return values{"base": release, "vms": []any{"a"}, "waves": []any{"1"}, "max_unavailable": 1, "max_failures": 0,
			"soak": "0s", "on_failure": "halt"}
	}
	p, text := c.plan("sharedos_rollout", c.none("sharedos_rollout"),
		valueOf(t, c.typeOf("sharedos_rollout"), config(unknown{})))
	if text != "" {
		t.Fatal(text)
	}
	if impact := attributeIn(t, p.after, "impact"); impact.IsKnown() {
		t.Errorf("the impact of an unknown release is %s", impact)
	}
	for _, again := range []bool{false, true} {
		happen := func() { guest(t, world, "a").Impact = &agentapi.Impact{Level: agentapi.Level_RELOAD} }
		if _, text := consistent(t, world, "sharedos_rollout", c.none("sharedos_rollout"),
			valueOf(t, c.typeOf("sharedos_rollout"), config(release)), happen, again); text != "" {
			t.Error(text)
		}
	}
}

func TestARolloutToldWhatCannotBe(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	own := newImage(t)
	for body, want := range map[string]string{
		`waves = ["50%", "10%"]`:    "is not more than the wave before it",
		`waves = ["x"]`:             "a number of VMs",
		`soak = "25h"`:              "a duration from 0s to 24h",
		`on_failure = "panic"`:      "take_back_all",
		`max_unavailable = 0`:       "at least 1",
		`vms = ["a", "a"]`:          "duplicate",
		`components = ["sha256:x"]`: "the id of a release",
	} {
		name, _, _ := strings.Cut(body, " ")
		config := fleetOf(three, body)
		for line := range strings.Lines(config) { // it is set once
			if strings.HasPrefix(strings.TrimSpace(line), name+" ") && strings.TrimSpace(line) != body {
				config = strings.Replace(config, line, "", 1)
			}
		}
		s := newSession(t, world, own.base()+config)
		command, output := s.command("validate", "-no-color")
		if err := command.Run(); err == nil || !strings.Contains(unwrapped(output.String()), want) {
			t.Errorf("%s: %v\n%s", body, err, output)
		}
	}
}

// result is a value of the attribute results.
type result struct {
	State        string            `json:"state"`
	FailedChecks map[string]string `json:"failed_checks"`
}

// rollout reads the results of the rollout from state.
func (s *session) rollout() map[string]result {
	s.t.Helper()
	var shown struct {
		Values struct {
			Root struct {
				Resources []struct {
					Address string          `json:"address"`
					Values  json.RawMessage `json:"values"`
				} `json:"resources"`
			} `json:"root_module"`
		} `json:"values"`
	}
	must(s.t, json.Unmarshal([]byte(s.run("show", "-json")), &shown))
	for _, one := range shown.Values.Root.Resources {
		if one.Address == rolloutAddress {
			var values struct {
				Results map[string]result `json:"results"`
			}
			must(s.t, json.Unmarshal(one.Values, &values))
			return values.Results
		}
	}
	s.t.Fatal("there is no rollout in state")
	return nil
}

// fails applies, which has to fail, and returns what Terraform said.
func fails(s *session) string {
	s.t.Helper()
	command, output := s.command("apply", "-auto-approve", "-no-color")
	if err := command.Run(); err == nil {
		s.t.Fatalf("the apply ended well:\n%s", output)
	}
	must(s.t, s.served.Close())
	return output.String()
}

// unwrapped is a text of Terraform without its line breaks and frames.
func unwrapped(text string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("│", " ", "╷", " ", "╵", " ").Replace(text)), " ")
}

// attributeIn is an attribute of an object.
func attributeIn(t *testing.T, object tftypes.Value, name string) tftypes.Value {
	t.Helper()
	var all map[string]tftypes.Value
	must(t, object.As(&all))
	return all[name]
}

func stringIn(t *testing.T, object tftypes.Value, name string) (text string) {
	t.Helper()
	must(t, attributeIn(t, object, name).As(&text))
	return text
}

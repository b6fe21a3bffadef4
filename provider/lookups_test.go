package provider_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
	"github.com/hashicorp/terraform-plugin-testing/compare"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// looksUp reads a data source, and returns its attributes as Go values and its diagnostics.
func (c *client) looksUp(name string, config values) (map[string]any, []*tfprotov6.Diagnostic) {
	c.t.Helper()
	schemas, err := c.server.GetProviderSchema(c.t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(c.t, err)
	schema := schemas.DataSourceSchemas[name]
	resp, err := c.server.ReadDataSource(c.t.Context(), &tfprotov6.ReadDataSourceRequest{
		TypeName: name, Config: c.dynamic(schema.ValueType(), c.object(schema, config)),
	})
	must(c.t, err)
	if errorsIn(resp.Diagnostics) != "" {
		return nil, resp.Diagnostics
	}
	state, err := resp.State.Unmarshal(schema.ValueType())
	must(c.t, err)
	return goValue(c.t, state).(map[string]any), resp.Diagnostics
}

// goValue converts a value to what encoding/json would make of it.
func goValue(t *testing.T, value tftypes.Value) any {
	t.Helper()
	if value.IsNull() {
		return nil
	}
	var converted any
	switch value.Type().(type) {
	case tftypes.Object, tftypes.Map:
		var members map[string]tftypes.Value
		must(t, value.As(&members))
		made := map[string]any{}
		for name, member := range members {
			made[name] = goValue(t, member)
		}
		return made
	case tftypes.List, tftypes.Set:
		var elements []tftypes.Value
		must(t, value.As(&elements))
		made := []any{}
		for _, element := range elements {
			made = append(made, goValue(t, element))
		}
		return made
	}
	switch {
	case value.Type().Is(tftypes.String):
		var text string
		must(t, value.As(&text))
		converted = text
	case value.Type().Is(tftypes.Bool):
		var yes bool
		must(t, value.As(&yes))
		converted = yes
	default:
		var number big.Float
		must(t, value.As(&number))
		converted = json.Number(number.Text('f', -1))
	}
	return converted
}

// fleet makes a base with two releases, a component, and VMs: web runs the old release, app the new
// one with the component, and off is off.
func fleet(t *testing.T) *client {
	t.Helper()
	own := newImage(t)
	tool := newParts(t)
	world := newWorld(t)
	s := newSession(t, world, own.base()+`
resource "sharedos_vm" "web" {
  name   = "web"
  base   = sharedos_base.debian.release
  memory = "512MiB"
  disk   = { size = "1GiB" }
  lifecycle { ignore_changes = [base] }
}
`)
	s.run("apply", "-auto-approve", "-no-color")
	own.set("2")()
	s.configure(own.base() + tool.component("") + `
resource "sharedos_vm" "web" {
  name   = "web"
  base   = sharedos_base.debian.release
  memory = "512MiB"
  disk   = { size = "1GiB" }
  lifecycle { ignore_changes = [base] }
}
resource "sharedos_vm" "app" {
  name       = "app"
  base       = sharedos_base.debian.release
  components = [sharedos_component.tool.release]
  memory     = "512MiB"
  disk       = { size = "1GiB" }
}
resource "sharedos_vm" "off" {
  name    = "off"
  base    = sharedos_base.debian.release
  memory  = "512MiB"
  disk    = { size = "1GiB" }
  running = false
}
`)
	s.run("apply", "-auto-approve", "-no-color")
	return newClient(t, world)
}

func TestVMsAreFoundByWhatTheyRun(t *testing.T) {
	c := fleet(t)
	base, _ := c.looksUp("sharedos_base", values{"name": "own"})
	history := base["history"].([]any)
	newest, first := history[0].(map[string]any)["release"].(string), history[1].(map[string]any)["release"].(string)
	component, _ := c.looksUp("sharedos_component", values{"name": "tool"})
	for _, test := range []struct {
		filter values
		want   []any
	}{
		{values{}, []any{"app", "off", "web"}},
		{values{"base": "own"}, []any{"app", "off", "web"}},
		{values{"base": "other"}, []any{}},
		{values{"release": newest}, []any{"app", "off"}},
		{values{"release": first}, []any{"web"}},
		{values{"release": component["release"]}, []any{"app"}},
		{values{"component": "tool"}, []any{"app"}},
		{values{"component": "none"}, []any{}},
		{values{"base": "own", "component": "tool"}, []any{"app"}},
		{values{"release": first, "component": "tool"}, []any{}},
		{values{"silent": true}, []any{}},
		{values{"silent": false}, []any{"app", "off", "web"}},
		{values{"pending": true}, []any{}},
		{values{"pending": false}, []any{"app", "off", "web"}},
	} {
		c.world.ForgetCalls()
		found, diags := c.looksUp("sharedos_vms", test.filter)
		if len(diags) > 0 || !slices.Equal(found["names"].([]any), test.want) ||
			len(found["vms"].([]any)) != len(test.want) {
			t.Errorf("%v finds %v, %v, want %v", test.filter, found["names"], diags, test.want)
		}
		if count := c.world.Count(); count["List"] != 1 || count["Read"] != 0 {
			t.Errorf("%v: the calls were %v", test.filter, count)
		}
	}
	found, _ := c.looksUp("sharedos_vms", values{"component": "tool"})
	app := found["vms"].([]any)[0].(map[string]any)
	if app["state"] != "running" || app["silent"] != false || app["has_pending"] != false ||
		app["base_name"] != "own" || app["error"] != nil ||
		!slices.Equal(app["component_names"].([]any), []any{"tool"}) ||
		app["stack"].(map[string]any)["base"] != newest {
		t.Errorf("the VM is %v", app)
	}
}

func TestSilentVMsAndThoseThatCannotBeRead(t *testing.T) {
	c := fleet(t)
	c.world.Guests.Silence("web", true)
	c.world.Domains.Damage("app")
	for _, test := range []struct {
		filter values
		want   []any
	}{
		{values{}, []any{"app", "off", "web"}},
		{values{"silent": true}, []any{"web"}},
		{values{"silent": false}, []any{"off"}},
		{values{"pending": false}, []any{"off"}},
		{values{"pending": true}, []any{}},
	} {
		found, diags := c.looksUp("sharedos_vms", test.filter)
		if !slices.Equal(found["names"].([]any), test.want) {
			t.Errorf("%v finds %v, want %v", test.filter, found["names"], test.want)
		}
		if len(diags) != 1 || diags[0].Severity != tfprotov6.DiagnosticSeverityWarning ||
			diags[0].Summary != `Unable to read VM "app"` {
			t.Errorf("%v: the diagnostics are %v", test.filter, diags)
		}
	}
	found, _ := c.looksUp("sharedos_vms", values{})
	unread, unheard := found["vms"].([]any)[0].(map[string]any), found["vms"].([]any)[2].(map[string]any)
	if unread["error"] == nil || unread["stack"] != nil || unread["silent"] != nil || unread["has_pending"] != nil {
		t.Errorf("the VM that cannot be read is %v", unread)
	}
	if unheard["silent"] != true || unheard["has_pending"] != nil || unheard["error"] != nil ||
		unheard["stack"] == nil {
		t.Errorf("the silent VM is %v", unheard)
	}
}

func TestAVMThatWaitsForItsNextStartIsFound(t *testing.T) {
	c := fleet(t)
	base, _ := c.looksUp("sharedos_base", values{"name": "own"})
	backend, err := c.world.Open(t.Context(), c.world.Opened()[0])
	must(t, err)
	found, err := backend.VMs().Read(t.Context(), "web")
	must(t, err)
	spec := found.Spec
	spec.Refresh = vm.RefreshPolicy{Strategy: vm.NextBoot}
	spec.Base, err = tree.ParseDigest(base["release"].(string))
	must(t, err)
	_, _, err = backend.VMs().Update(t.Context(), spec, func(string) {})
	must(t, err)
	waiting, _ := c.looksUp("sharedos_vms", values{"pending": true})
	if !slices.Equal(waiting["names"].([]any), []any{"web"}) ||
		waiting["vms"].([]any)[0].(map[string]any)["has_pending"] != true {
		t.Errorf("these wait: %v", waiting)
	}
	// It runs one release and is to run the other one.
	if newest, _ := c.looksUp("sharedos_vms",
		values{"release": base["release"]}); !slices.Contains(newest["names"].([]any), any("web")) {
		t.Errorf("of the release that it is to run: %v", newest["names"])
	}
}

// The data source has everything that the resource has computed, and what is configured.
func TestTheDataSourceOfAVMHasWhatTheResourceHas(t *testing.T) {
	own := newImage(t)
	same := func(name string) statecheck.StateCheck {
		return statecheck.CompareValuePairs("data.sharedos_vm.web", attribute(name), webAddress,
			attribute(name), compare.ValuesSame())
	}
	var checks []statecheck.StateCheck
	for _, name := range []string{
		"uuid", "hostname", "ssh_authorized_keys", "base", "components", "on_demand", "attached_on_demand",
		"prefer", "stack", "pending",
		"remaining", "unreadable", "held_layers", "faults", "vcpus", "memory", "disk", "interfaces", "addresses",
		"running", "state", "autostart",
		"deletion_protection", "title", "description",
	} {
		checks = append(checks, same(name))
	}
	checks = append(checks,
		value("data.sharedos_vm.web", attribute("silent"), knownvalue.Bool(false)),
		value("data.sharedos_vm.web", attribute("agent").AtMapKey("answering"), knownvalue.Bool(true)),
		value("data.sharedos_vm.web", attribute("last_refresh"), knownvalue.Null()),
	)
	check(t, newWorld(t), resource.TestStep{
		Config: own.base() + web(`
  vcpus       = 2
  title       = "Web"
  interfaces  = { lan = { bridge = "br0", mac = "52:54:00:00:00:01" } }
`) + `data "sharedos_vm" "web" { name = sharedos_vm.web.name }`,
		ConfigStateChecks: checks,
	})
}

// No attribute of the resource is forgotten in the data source but those that describe a change.
func TestNoAttributeOfAVMIsForgotten(t *testing.T) {
	c := newClient(t, newWorld(t))
	schemas, err := c.server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(t, err)
	names := func(schema *tfprotov6.Schema) map[string]bool {
		found := map[string]bool{}
		for _, attribute := range schema.Block.Attributes {
			found[attribute.Name] = true
		}
		return found
	}
	wanted, has := names(schemas.ResourceSchemas["sharedos_vm"]), names(schemas.DataSourceSchemas["sharedos_vm"])
	for _, name := range []string{"refresh", "ready", "impact", "detach_on_demand", "timeouts",
		"files", "units", "users"} {
		delete(wanted, name)
	}
	wanted["silent"] = true
	if !maps.Equal(wanted, has) {
		t.Errorf("the data source has %v, want %v", slices.Sorted(maps.Keys(has)), slices.Sorted(maps.Keys(wanted)))
	}
}

func TestWhatTheHostIs(t *testing.T) {
	world := newWorld(t)
	world.Domains.Host = hypervisor.Limits{VCPUs: 8, Processors: 4, Memory: 64 << 30}
	c := newClient(t, world)
	found, diags := c.looksUp("sharedos_host", values{})
	if len(diags) > 0 {
		t.Fatal(diags[0])
	}
	for name, want := range map[string]string{
		"uri": "qemu:///system", "libvirt_version": "11.3.0", "qemu_version": "10.0.2", "acceleration": "tcg",
		"vsock": "vhost-vsock", "autostart_works": "true",
	} {
		if got := fmt.Sprint(found[name]); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	pool, missing := found["pool"].(map[string]any), found["missing"].([]any)
	if pool["name"] != "sharedos" || pool["exists"] != true || pool["capacity_bytes"] == nil ||
		pool["available_bytes"] == nil {
		t.Errorf("the pool is %v", pool)
	}
	if len(missing) != 1 || missing[0].(map[string]any)["name"] != "/dev/kvm" ||
		missing[0].(map[string]any)["install"] != "Load the module." {
		t.Errorf("it lacks %v", missing)
	}
}

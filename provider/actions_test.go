package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// invokes validates, plans and invokes an action. It returns its messages, and its errors and
// warnings as one text each.
func (c *client) invokes(name string, config values) (told []string, failed, warned string) {
	c.t.Helper()
	server, ok := c.server.(tfprotov6.ActionServer)
	if !ok {
		c.t.Fatal("the server has no actions")
	}
	schemas, err := c.server.GetProviderSchema(c.t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(c.t, err)
	schema := schemas.ActionSchemas[name].Schema
	given := c.dynamic(schema.ValueType(), c.object(schema, config))
	valid, err := server.ValidateActionConfig(c.t.Context(),
		&tfprotov6.ValidateActionConfigRequest{ActionType: name, Config: given})
	must(c.t, err)
	if text := errorsIn(valid.Diagnostics); text != "" {
		return nil, text, ""
	}
	planned, err := server.PlanAction(c.t.Context(), &tfprotov6.PlanActionRequest{ActionType: name, Config: given})
	must(c.t, err)
	if text := errorsIn(planned.Diagnostics); text != "" {
		return nil, text, ""
	}
	stream, err := server.InvokeAction(c.t.Context(), &tfprotov6.InvokeActionRequest{ActionType: name, Config: given})
	must(c.t, err)
	completed := false
	for event := range stream.Events {
		switch event := event.Type.(type) {
		case tfprotov6.ProgressInvokeActionEventType:
			told = append(told, event.Message)
		case tfprotov6.CompletedInvokeActionEventType:
			completed, failed = true, errorsIn(event.Diagnostics)
			for _, d := range event.Diagnostics {
				if d.Attribute != nil {
					c.t.Errorf("a diagnostic names the attribute %s, which may be one of a resource", d.Attribute)
				}
				if d.Severity == tfprotov6.DiagnosticSeverityWarning {
					warned += d.Summary + ": " + d.Detail + "\n"
				}
			}
		}
	}
	if !completed {
		c.t.Error("the action has not said that it is completed")
	}
	return told, failed, warned
}

// waiting makes a fleet in which the VM web runs the first release and is to run the second one.
// Its loader differs, so that it takes a soft-reboot at least.
func waiting(t *testing.T) (c *client, next string) {
	t.Helper()
	c = fleet(t)
	agent := guest(t, c.world, "web")
	agent.Impact = &agentapi.Impact{Level: agentapi.Level_SOFT_REBOOT, Reasons: []string{"the dynamic loader differs"}}
	base, _ := c.looksUp("sharedos_base", values{"name": "own"})
	next = base["release"].(string)
	backend, err := c.world.Open(t.Context(), c.world.Opened()[0])
	must(t, err)
	found, err := backend.VMs().Read(t.Context(), "web")
	must(t, err)
	spec := found.Spec
	spec.Refresh = vm.RefreshPolicy{Strategy: vm.NextBoot}
	spec.Base, err = tree.ParseDigest(next)
	must(t, err)
	updated, _, err := backend.VMs().Update(t.Context(), spec, func(string) {})
	must(t, err)
	if !updated.AwaitsPowerCycle {
		t.Fatal("the VM does not wait for its next start")
	}
	return c, next
}

// runs returns the base release and the kernel that a VM runs.
func (c *client) runs(name string) (base, kernel string) {
	c.t.Helper()
	found, _ := c.looksUp("sharedos_vm", values{"name": name})
	return found["stack"].(map[string]any)["base"].(string), found["agent"].(map[string]any)["kernel"].(string)
}

func TestARefreshMovesAVMToTheStackInItsDefinition(t *testing.T) {
	c, next := waiting(t)
	first, _ := c.runs("web")
	for name, test := range map[string]struct {
		refresh any
		refuses []string
	}{
		"the defaults allow less": {nil,
			[]string{"refresh.max_impact allows restart", "the dynamic loader differs"}},
		"live is not enough": {values{"max_impact": "soft_reboot"},
			[]string{`Unable to refresh VM "web"`, "needs soft_reboot", "the dynamic loader differs",
				"runs what it ran before"}},
		"more than max_impact": {values{"strategy": "soft_reboot"},
			[]string{"refresh.max_impact allows restart"}},
		"next_boot does nothing":      {values{"strategy": "next_boot"}, []string{"leaves the running VM alone"}},
		"no strategy":                 {values{"strategy": "never"}, []string{"refresh.strategy"}},
		"a check that checks nothing": {values{"health_checks": values{"web": values{}}}, []string{"health_checks"}},
		"a time that is too long":     {values{"settle": "11m"}, []string{"settle"}},
	} {
		_, failed, _ := c.invokes("sharedos_refresh", values{"vm": "web", "refresh": test.refresh})
		for _, text := range test.refuses {
			if !strings.Contains(failed, text) {
				t.Errorf("%s: the error does not say %q: %s", name, text, failed)
			}
		}
		if base, _ := c.runs("web"); base != first {
			t.Fatalf("%s: the VM runs %s", name, base)
		}
	}
	told, failed, _ := c.invokes("sharedos_refresh", values{
		"vm": "web", "timeout": "5m",
		"refresh": values{"by": "rollout", "strategy": "soft_reboot", "max_impact": "soft_reboot",
			"health_checks": values{"web": values{"unit": "nginx.service"}}},
	})
	if base, _ := c.runs("web"); failed != "" || base != next || len(told) < 3 ||
		!strings.HasPrefix(told[0], `VM "web": `) {
		t.Fatalf("it runs %s, and the action said %q and %s", base, told, failed)
	}
	asked := guest(t, c.world, "web").Asked()
	if checks := asked.GetHealthChecks(); len(checks) != 1 || checks[0].GetUnit() != "nginx.service" ||
		checks[0].GetTimeoutMs() != 30000 {
		t.Errorf("the agent was asked for the checks %v", checks)
	}
	if settle := asked.GetSettleMs(); settle != 5000 {
		t.Errorf("the agent was asked to settle for %d ms, and the default is 5 s", settle)
	}
	before := guest(t, c.world, "web").Refreshes()
	told, failed, _ = c.invokes("sharedos_refresh", values{"vm": "web"})
	if after := guest(t, c.world, "web").Refreshes(); failed != "" || after != before ||
		!strings.Contains(told[len(told)-1], "nothing is to be done") {
		t.Errorf("a VM that runs its stack was refreshed %d times; the action said %q and %s",
			after-before, told, failed)
	}
}

// An action moves a VM of rollouts by its own policy, and leaves the one that rollouts keep to.
func TestActionsLeaveThePartOfAVMInRollouts(t *testing.T) {
	c, next := waiting(t)
	const policy = `{"strategy":"live"}`
	domain, _, err := c.world.VM(t.Context(), "web")
	must(t, err)
	domain.Metadata.Rollout = &hypervisor.Rollout{Policy: []byte(policy)}
	must(t, c.world.Domains.SetMetadata(t.Context(), "web", domain.Metadata))
	for action, config := range map[string]values{
		"sharedos_refresh": {"vm": "web", "refresh": values{"strategy": "soft_reboot", "max_impact": "soft_reboot"}},
		"sharedos_reboot":  {"vm": "web"},
	} {
		if _, failed, _ := c.invokes(action, config); failed != "" {
			t.Fatal(action, failed)
		}
		domain, _, err := c.world.VM(t.Context(), "web")
		if must(t, err); domain.Metadata.Rollout == nil || string(domain.Metadata.Rollout.Policy) != policy {
			t.Errorf("%s: it takes part as %+v", action, domain.Metadata.Rollout)
		}
		if base, _ := c.runs("web"); base != next {
			t.Errorf("%s: it runs %s", action, base)
		}
	}
}

func TestARebootStartsWhatWaits(t *testing.T) {
	c, next := waiting(t)
	ready := values{"units": []any{"nginx.service"}, "timeout": "1m"}
	if _, failed, warned := c.invokes("sharedos_reboot", values{"vm": "web", "ready": ready}); failed != "" ||
		warned != "" {
		t.Fatal(failed, warned)
	}
	if base, kernel := c.runs("web"); base != next || kernel != "6.12.2" {
		t.Errorf("it runs %s and kernel %s", base, kernel)
	}
	reboots := c.world.Count()["Reboot"]
	told, failed, _ := c.invokes("sharedos_start_pending_kernel", values{"vm": "web"})
	if now := c.world.Count()["Reboot"]; failed != "" || now != reboots ||
		!strings.Contains(told[len(told)-1], "nothing is to be done") {
		t.Errorf("without a pending kernel: %d reboots, %q, %s", now-reboots, told, failed)
	}
}

func TestAPendingKernelIsStarted(t *testing.T) {
	c, next := waiting(t)
	if _, failed, _ := c.invokes("sharedos_start_pending_kernel", values{"vm": "web"}); failed != "" {
		t.Fatal(failed)
	}
	if base, kernel := c.runs("web"); base != next || kernel != "6.12.2" {
		t.Errorf("it runs %s and kernel %s", base, kernel)
	}
}

func TestActionsOnAVMThatCannotBeActedOn(t *testing.T) {
	c := fleet(t)
	c.world.Guests.Silence("web", true)
	c.world.Domains.SetState("app", hypervisor.Paused)
	for _, test := range []struct {
		action, vm string
		refuses    string
	}{
		{"sharedos_refresh", "off", "does not run: it is off"},
		{"sharedos_reboot", "off", "does not run: it is off"},
		{"sharedos_start_pending_kernel", "off", "does not run: it is off"},
		{"sharedos_reboot", "app", "it is paused"},
		{"sharedos_reboot", "none", "no such domain"},
		{"sharedos_refresh", "web", "does not answer"},
		{"sharedos_start_pending_kernel", "web", "does not answer"},
		{"sharedos_reboot", "Web", "vm"},
	} {
		if _, failed, _ := c.invokes(test.action,
			values{"vm": test.vm}); !strings.Contains(strings.ToLower(failed), test.refuses) {
			t.Errorf("%s %s: got %q, want %q", test.action, test.vm, failed, test.refuses)
		}
	}
	if count := c.world.Count()["Reboot"]; count != 0 {
		t.Errorf("%d VMs were rebooted", count)
	}
	if _, failed, _ := c.invokes("sharedos_reboot",
		values{"vm": "web", "ready": values{"health_checks": values{"none": values{}}}}); !strings.Contains(failed,
		"health_checks") {
		t.Errorf("a check that checks nothing: %q", failed)
	}
	if _, failed, _ := c.invokes("sharedos_reboot",
		values{"vm": "web", "timeout": "soon"}); !strings.Contains(failed, "timeout") {
		t.Errorf("a timeout that is none: %q", failed)
	}
}

func TestVerifyFailsIfThePoolIsDamaged(t *testing.T) {
	c := fleet(t)
	told, failed, _ := c.invokes("sharedos_verify", values{})
	if failed != "" || !strings.Contains(told[len(told)-1], "0 are missing or damaged") {
		t.Fatalf("%q, %s", told, failed)
	}
	if _, failed, _ := c.invokes("sharedos_verify", values{"base": "own", "component": "tool"}); failed == "" {
		t.Error("a base and a component are both taken")
	}
	must(t, c.world.DropLayers())
	for _, config := range []values{{}, {"base": "own"}, {"component": "tool"}} {
		if _, failed, _ := c.invokes("sharedos_verify", config); !strings.Contains(failed,
			"Unable to verify volume layer-") || !strings.Contains(failed, "these releases need it") {
			t.Errorf("%v: %s", config, failed)
		}
	}
}

// An action that nobody listens to any more ends.
func TestAnActionEndsWithItsCall(t *testing.T) {
	c := fleet(t)
	server := c.server.(tfprotov6.ActionServer)
	schemas, err := c.server.GetProviderSchema(t.Context(), &tfprotov6.GetProviderSchemaRequest{})
	must(t, err)
	schema := schemas.ActionSchemas["sharedos_reboot"].Schema
	stream, err := server.InvokeAction(t.Context(), &tfprotov6.InvokeActionRequest{
		ActionType: "sharedos_reboot", Config: c.dynamic(schema.ValueType(), c.object(schema, values{"vm": "web"})),
	})
	must(t, err)
	for range stream.Events {
		break
	}
	if !c.idle() {
		t.Error("the call is still counted")
	}
}

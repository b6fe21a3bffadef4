package provider_test

import (
	"regexp"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// An apply that starts a VM waits until the VM is ready, and says what is missing if that takes too long.
func TestAnApplyWaitsUntilAVMIsReady(t *testing.T) {
	world := newWorld(t)
	var failing atomic.Bool
	var asked atomic.Int64
	guest(t, world, "web").Failing = func(checks []*agentapi.HealthCheck) []*agentapi.FailedCheck {
		asked.Add(1)
		if len(checks) != 2 || checks[0].GetTcp() != "127.0.0.1:80" || checks[1].GetUnit() != "web.service" {
			t.Errorf("it is asked for %v", checks)
		}
		if failing.Load() {
			return []*agentapi.FailedCheck{{Name: "port", Reason: "connection refused"}}
		}
		return nil
	}
	ready := func(timeout, more string) string {
		return debian(unpatched) +
			web(`ready = { units = ["web.service"], health_checks = { port = { tcp = "127.0.0.1:80" } }, timeout = "`+
				timeout+`" }`+"\n"+more)
	}
	timeout := attribute("ready").AtMapKey("timeout")
	check(t, world,
		resource.TestStep{Config: ready("5m", ""),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, timeout, knownvalue.StringExact("5m"))}},
		// A change of what is waited for touches nothing.
		resource.TestStep{
			PreConfig: func() { failing.Store(true); asked.Store(0) }, Config: ready("1s", ""),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
		},
		resource.TestStep{Config: ready("1s", "running = false")},
		resource.TestStep{Config: ready("1s", ""),
			ExpectError: regexp.MustCompile(`(?s)not ready after 1\ss:.*port:\sconnection\srefused`)},
		// The VM runs. The next apply has nothing to start, and so nothing to wait for.
		resource.TestStep{Config: ready("1s", ""),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop))},
		resource.TestStep{PreConfig: func() { failing.Store(false) }, Config: debian(unpatched) + web("")},
	)
	if asked.Load() == 0 {
		t.Error("its agent was not asked")
	}
}

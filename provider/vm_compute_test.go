package provider_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Below its maxima, a VM gets processors and memory while it runs. Everything else takes a power-off.
func TestProcessorsAndMemoryOfAVM(t *testing.T) {
	const powerOff, live = "reboot", "none"
	world := newWorld(t)
	config := func(memory, body string) string {
		return debian(unpatched) + sized(memory, "4GiB", body+"\n"+`refresh = { max_impact = "reboot" }`)
	}
	has := func(vcpus int, maxVCPUs any, memory string, maxMemory any) []statecheck.StateCheck {
		known := func(value any) knownvalue.Check {
			switch value := value.(type) {
			case int:
				return knownvalue.Int64Exact(int64(value))
			case string:
				return knownvalue.StringExact(value)
			default:
				return knownvalue.Null()
			}
		}
		var checks []statecheck.StateCheck
		for name, want := range map[string]any{"vcpus": vcpus, "max_vcpus": maxVCPUs, "memory": memory,
			"max_memory": maxMemory} {
			checks = append(checks, value(webAddress, attribute(name), known(want)))
		}
		return checks
	}
	var calls []string
	step := func(config, way string, state []statecheck.StateCheck, reasons ...vm.Reason) resource.TestStep {
		var said []knownvalue.Check
		for _, reason := range reasons {
			said = append(said, knownvalue.StringExact(string(reason)))
		}
		return resource.TestStep{
			PreConfig: func() { calls = world.Domains.Calls() },
			Config:    config,
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact(way)),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"),
					knownvalue.ListExact(said)),
			),
			ConfigStateChecks: state,
			Check: func(*terraform.State) error {
				if did := world.Domains.Calls()[len(calls):]; slices.Contains(did, "Start web") != (way == powerOff) {
					return fmt.Errorf("the apply called %q", did)
				}
				return nil
			},
		}
	}
	const most = "max_vcpus = 4\n" + `max_memory = "1GiB"`
	imported := resource.TestStep{
		ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
		ImportStateVerifyIdentifierAttribute: "name",
		ImportStateVerifyIgnore:              []string{"refresh", "agent.ready_seconds", "impact", "last_refresh"},
	}
	check(t, world,
		resource.TestStep{Config: config("512MiB", ""), ConfigStateChecks: has(1, nil, "512MiB", nil)},
		step(config("512MiB", most), powerOff, has(1, 4, "512MiB", "1GiB"), vm.ReasonMaxProcessors, vm.ReasonMaxMemory),
		imported,
		step(config("512MiB", "vcpus = 3\n"+most), live, has(3, 4, "512MiB", "1GiB"), vm.ReasonLiveProcessors),
		step(config("1024MiB", "vcpus = 2\n"+most), live, has(2, 4, "1024MiB", "1GiB"),
			vm.ReasonLiveProcessors, vm.ReasonLiveMemory),
		resource.TestStep{ // another text for the same maximum
			Config:            config("1GiB", "vcpus = 2\nmax_vcpus = 4\n"+`max_memory = "1048576KiB"`),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: has(2, 4, "1024MiB", "1GiB"),
		},
		step(config("256MiB", "vcpus = 2\n"+most), live, has(2, 4, "256MiB", "1GiB"), vm.ReasonLiveMemory),
		// Somebody plugs a processor in with virsh: the plan shows it, and the apply takes it out again.
		resource.TestStep{
			PreConfig:         func() { must(t, world.Domains.SetVCPUs(t.Context(), "web", 3)) },
			Config:            config("256MiB", "vcpus = 2\n"+most),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: has(2, 4, "256MiB", "1GiB"),
		},
		step(config("256MiB", "vcpus = 2"), powerOff, has(2, nil, "256MiB", nil),
			vm.ReasonMaxProcessors, vm.ReasonMaxMemory),
	)
}

package provider_test

import (
	"regexp"
	"slices"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Kernel arguments reach the definition, and the running VM with its next boot. What somebody
// changes in the definition is changed back.
func TestKernelArguments(t *testing.T) {
	world := newWorld(t)
	config := func(body string) string { return debian(patched) + web(body) }
	const first, second = `kernel_arguments = ["nosmt"]`, `kernel_arguments = ["transparent_hugepage=never", "audit=0"]`
	nextBoot := plans(
		action(webAddress, plancheck.ResourceActionUpdate),
		plancheck.ExpectKnownValue(webAddress, attribute("state"), knownvalue.StringExact("running")),
		plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"), knownvalue.StringExact("none")),
		plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"),
			knownvalue.ListExact([]knownvalue.Check{
				knownvalue.StringExact("the kernel arguments take effect at the next power-off and start"),
			})),
	)
	has := func(want ...string) func() {
		return func() {
			domain, _, err := world.VM(t.Context(), "web")
			must(t, err)
			if !slices.Equal(domain.KernelArgs, want) {
				t.Errorf("it has %q, want %q", domain.KernelArgs, want)
			}
		}
	}
	imported := resource.TestStep{
		ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
		ImportStateVerifyIdentifierAttribute: "name",
		ImportStateVerifyIgnore:              []string{"refresh", "agent.ready_seconds", "impact"},
	}
	check(t, world,
		resource.TestStep{Config: config(first),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionCreate))},
		imported,
		resource.TestStep{PreConfig: has("nosmt"), Config: config(second), ConfigPlanChecks: nextBoot},
		imported,
		resource.TestStep{
			PreConfig: func() {
				has("transparent_hugepage=never", "audit=0")()
				world.Domains.Alter("web", func(d *hypervisor.Domain) { d.KernelArgs = []string{"debug"} })
			},
			Config: config(second), ConfigPlanChecks: nextBoot,
		},
		resource.TestStep{PreConfig: has("transparent_hugepage=never", "audit=0"), Config: config(""),
			ConfigPlanChecks: nextBoot},
		resource.TestStep{
			PreConfig: has(), Config: config(`kernel_arguments = []`),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("kernel_arguments"),
				knownvalue.ListSizeExact(0))},
		},
	)
}

func TestKernelArgumentsThatCannotBeGivenAreRefused(t *testing.T) {
	world := newWorld(t)
	config := func(body string) string { return debian(patched) + web(body) }
	refused := func(argument, want string) resource.TestStep {
		return resource.TestStep{Config: config(`kernel_arguments = ["` + argument + `"]`), PlanOnly: true,
			ExpectError: regexp.MustCompile(want)}
	}
	check(t, world,
		refused("root=/dev/vda", `(?s)provider\s+sets\s+root\s+itself`), refused("console=tty0", `console`),
		refused("a b", `element\s+of\s+its\s+own`),
		resource.TestStep{Config: config(`kernel_arguments = [join("", [for i in range(1000) : "ab"])]`),
			PlanOnly: true, ExpectError: regexp.MustCompile(`1024\s+are\s+allowed`)},
	)
}

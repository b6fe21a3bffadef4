package provider_test

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestALayerInUseIsReportedAndDetachedWhenItIsFree(t *testing.T) {
	world := newWorld(t)
	config := debian(patched) + web("")
	left := tree.Sum([]byte("a layer of an earlier stack"))
	held := func(by ...knownvalue.Check) statecheck.StateCheck {
		return value(webAddress, attribute("held_layers"), knownvalue.ListExact([]knownvalue.Check{
			knownvalue.ObjectExact(map[string]knownvalue.Check{"layer": knownvalue.StringExact(left.String()),
				"by": knownvalue.ListExact(by)}),
		}))
	}
	const holder = "web.service: process 12 (web) maps /usr/lib/x.so"
	check(t, world,
		resource.TestStep{Config: config,
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("held_layers"),
				knownvalue.ListSizeExact(0))}},
		resource.TestStep{
			PreConfig: func() {
				domain, _, err := world.VM(t.Context(), "web")
				must(t, err)
				must(t, world.Domains.AttachLayer(t.Context(), "web",
					hypervisor.LayerDevice{ID: left, Path: domain.Layers[0].Path}))
				guest(t, world, "web").Hold = map[string][]string{left.String(): {holder}}
			},
			Config:            config,
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{held(knownvalue.StringExact(holder))},
		},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").Hold = nil },
			Config:    config,
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectUnknownValue(webAddress, attribute("held_layers")),
				plancheck.ExpectKnownValue(webAddress, attribute("stack"), knownvalue.NotNull()),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("held_layers"),
				knownvalue.ListSizeExact(0))},
		},
	)
}

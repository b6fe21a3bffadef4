package provider_test

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
)

func TestAnUnknownHostIsNotConnectedTo(t *testing.T) {
	world := newWorld(t)
	config := `
resource "terraform_data" "host" { input = "qemu:///system?socket=/run/test" }
provider "sharedos" { uri = terraform_data.host.output }
` + debian(patched) + web("")
	check(t, world, resource.TestStep{
		Config: config,
		ConfigPlanChecks: resource.ConfigPlanChecks{
			PreApply: []plancheck.PlanCheck{
				action(debianAddress, plancheck.ResourceActionCreate),
				action(webAddress, plancheck.ResourceActionCreate),
			},
			PostApplyPostRefresh: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()},
		},
	})
	opened := world.Opened()
	if len(opened) == 0 {
		t.Fatal("the host was never opened")
	}
	for _, config := range opened {
		if config.URI != "qemu:///system?socket=/run/test" || config.Pool != "sharedos" {
			t.Errorf("the host was opened as %+v", config)
		}
	}
}

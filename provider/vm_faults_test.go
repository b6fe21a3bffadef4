package provider_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

func TestALayerThatSomebodyHasDetachedIsAttachedByTheNextApply(t *testing.T) {
	world := newWorld(t)
	config := debian(patched) + web("")
	none := value(webAddress, attribute("faults"), knownvalue.ListSizeExact(0))
	check(t, world,
		resource.TestStep{Config: config, ConfigStateChecks: []statecheck.StateCheck{none}},
		resource.TestStep{
			PreConfig: func() {
				domain, _, err := world.VM(t.Context(), "web")
				must(t, err)
				world.Domains.Unplug("web", domain.Layers[0].ID)
				world.Domains.Alter("web", func(d *hypervisor.Domain) { d.Layers = nil })
			},
			Config: config,
			ConfigPlanChecks: plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectUnknownValue(webAddress, attribute("faults")),
			),
			ConfigStateChecks: []statecheck.StateCheck{none},
		},
	)
}

func TestAVMWithoutItsPrivateDiskIsPlannedAndDestroyed(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	config := own.base() + web("")
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			PreConfig: func() {
				domain, _, err := world.VM(t.Context(), "web")
				must(t, err)
				must(t, os.Remove(domain.PrivateDisk))
			},
			Config:           config,
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("faults"),
				knownvalue.ListExact([]knownvalue.Check{
					knownvalue.ObjectPartial(
						map[string]knownvalue.Check{"object": knownvalue.StringExact("private disk"),
							"mended": knownvalue.Bool(false)}),
				}))},
		},
		resource.TestStep{PreConfig: own.set("2"), Config: config,
			ExpectError: says("its private disk is gone", "terraform apply -replace=")},
	)
}

func TestACreationThatWasKilledIsFinishedByTheNextApply(t *testing.T) {
	t.Parallel()
	for name, finished := range map[string]bool{"while the VM was made": false,
		"before Terraform wrote it to its state": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			s := newSession(t, world, debian(unpatched)+web(""))
			s.run("apply", "-auto-approve", "-no-color")
			before, _, err := world.VM(t.Context(), "web")
			must(t, err)
			operator, err := world.Operator()
			must(t, err)
			workspace, err := store.ThisWorkspace() // the provider runs in this process
			must(t, err)
			s.run("state", "rm", "sharedos_vm.web")
			world.Domains.Alter("web", func(d *hypervisor.Domain) {
				d.Metadata.Creating = &hypervisor.Creating{
					Operator: operator, Process: "gone", Began: time.Now(), Workspace: workspace, Finished: finished,
				}
			})
			if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
				"1 to add, 0 to change, 0 to destroy") {
				t.Errorf("the next apply says:\n%s", said)
			}
			if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
				t.Errorf("the plan after it is not empty:\n%s", said)
			}
			after, _, err := world.VM(t.Context(), "web")
			if err != nil || after.UUID != before.UUID || after.Metadata.Creating != nil {
				t.Errorf("the VM is %+v, %v", after, err)
			}
		})
	}
}

// A clean end of Terraform records what was made, so that another configuration does not take a VM
// of the same name for its own.
func TestWhatWasMadeIsRecordedWhenTerraformEnds(t *testing.T) {
	world := newWorld(t)
	s := newSession(t, world, debian(unpatched)+web(""))
	s.run("apply", "-auto-approve", "-no-color")
	if domain, _, err := world.VM(t.Context(), "web"); err != nil || domain.Metadata.Creating != nil {
		t.Errorf("the VM is %+v, %v", domain, err)
	}
	if history, err := world.Volumes.History(t.Context(), release.Base, "debian-13"); err != nil ||
		history.Owner == "" || history.Making != nil {
		t.Errorf("the record of the base is %+v, %v", history, err)
	}
	if !s.served.Idle() {
		t.Error("the provider says that it is not idle")
	}
}

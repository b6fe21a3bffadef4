package provider_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Two resources of one name are found by the plan, whether the object exists or not.
func TestTwoResourcesOfOneNameAreRefusedByThePlan(t *testing.T) {
	world := newWorld(t)
	another := strings.Replace(debian(patched), `"sharedos_base" "debian"`, `"sharedos_base" "another"`, 1)
	refused := func(config string, what string) resource.TestStep {
		return resource.TestStep{Config: config, PlanOnly: true,
			ExpectError: says("Unable to plan "+what, "another resource of this configuration has the same name",
				"Give each of them a name of its own")}
	}
	check(t, world,
		refused(debian(patched)+another, `base "debian-13"`),
		refused(debian(patched)+web("")+named("other", "web", ""), `VM "web"`),
		resource.TestStep{Config: debian(patched) + web("")},
		refused(debian(patched)+web("")+another, `base "debian-13"`),
		refused(debian(patched)+web("")+named("other", "web", ""), `VM "web"`),
		// One that another resource leaves behind.
		refused(debian(patched)+web("")+named("other", "web", "vcpus = 2"), `VM "web"`),
		resource.TestStep{Config: debian(patched) + web("") + named("other", "web2", "")},
		// Names that are swapped are no name twice: both VMs are replaced.
		resource.TestStep{Config: debian(patched) +
			strings.NewReplacer(`"web2"`, `"web3"`).Replace(named("other", "web2", "")) + web("")},
	)
}

// A replacement is planned twice, and is not two resources.
func TestAReplacementIsNotTwoResources(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := newSession(t, world, debian(patched)+web(""))
	s.run("apply", "-auto-approve", "-no-color")
	for _, arguments := range [][]string{
		{"-replace=sharedos_vm.web"}, {"-replace=sharedos_vm.web", "-replace=sharedos_base.debian"}, {"-replace=sharedos_vm.web", "-refresh=false"},
	} {
		if said := s.run(append([]string{"apply", "-auto-approve", "-no-color"},
			arguments...)...); !strings.Contains(said, "destroyed") {
			t.Errorf("%q has replaced nothing:\n%s", arguments, said)
		}
	}
	s.run("taint", "sharedos_vm.web")
	s.run("taint", "sharedos_base.debian")
	s.run("apply", "-auto-approve", "-no-color")
	s.run("destroy", "-auto-approve", "-no-color")
}

// A pool that can be neither used nor created is known before anything is built.
func TestAPoolThatCannotBeMadeIsRefusedByThePlan(t *testing.T) {
	world := newWorld(t)
	cannot := func() {
		world.SetPoolFailure(errors.Join(store.ErrConfig, errors.New("/proc/pool is in a file system of the kernel")))
	}
	check(t, world,
		resource.TestStep{PreConfig: cannot, Config: debian(patched) + web(""), PlanOnly: true,
			ExpectError: says(`Unable to plan base "debian-13"`, "file system of the kernel",
				"Change pool or pool_path in the provider block")},
		resource.TestStep{
			PreConfig: func() {
				if world.Count()["Prepare"] > 0 {
					t.Error("it was built before the pool was looked at")
				}
				world.SetPoolFailure(nil)
			},
			Config:           debian(patched),
			ConfigPlanChecks: plans(action("sharedos_base.debian", plancheck.ResourceActionCreate)),
		},
	)
}

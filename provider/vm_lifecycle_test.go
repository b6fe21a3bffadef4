package provider_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// Every attribute of the life cycle is set, read back, imported, changed live, and mended after a
// change outside. A change asks the guest nothing and defines nothing.
func TestTheLifeCycleOfAVM(t *testing.T) {
	no, yes := knownvalue.Bool(false), knownvalue.Bool(true)
	text := knownvalue.StringExact
	for _, test := range []struct {
		name, attribute string
		first, second   string
		is, becomes     knownvalue.Check
		// outside changes the domain after the update.
		outside func(d *hypervisor.Domain)
		// last is a configuration with which the VM can be destroyed.
		last string
	}{
		{"autostart", "autostart", "true", "false", yes, no, nil, ""},
		{"no autostart", "autostart", "false", "true", no, yes, nil, ""},
		{"protection", "deletion_protection", "true", "false", yes, no, func(d *hypervisor.Domain) { d.Metadata.Protected = true }, ""},
		{"no protection", "deletion_protection", "false", "true", no, yes, func(d *hypervisor.Domain) { d.Metadata.Protected = false }, "deletion_protection = false"},
		{"title", "title", `"Web"`, `"Web <2>"`, text("Web"), text("Web <2>"), func(d *hypervisor.Domain) { d.Title = "other" }, ""},
		{"title that goes", "title", `"Web"`, `""`, text("Web"), text(""), func(d *hypervisor.Domain) { d.Title = "other" }, ""},
		{"description", "description", `"a\nb"`, `"c"`, text("a\nb"), text("c"), func(d *hypervisor.Domain) { d.Description = "" }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			world := newWorld(t)
			config := func(body string) string { return debian(patched) + web(body) }
			with := func(value string) string { return config(test.attribute + " = " + value) }
			is := func(want knownvalue.Check) []statecheck.StateCheck {
				return []statecheck.StateCheck{value(webAddress, attribute(test.attribute), want)}
			}
			changed := plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute(test.attribute), test.becomes),
				plancheck.ExpectKnownValue(webAddress, attribute("state"), text("running")),
				plancheck.ExpectKnownValue(webAddress, attribute("agent"), knownvalue.NotNull()),
			)
			only := func() {
				t.Helper()
				calls := world.Count()
				maps.DeleteFunc(calls, func(operation string, _ int) bool {
					return operation == "Read" || operation == "Newest" ||
						operation == "Preflight" || operation == "History"
				})
				if len(calls) != 1 || calls["SetLifeCycle"] != 1 {
					t.Errorf("a change of %s called %v", test.attribute, calls)
				}
			}
			check(t, world,
				resource.TestStep{
					Config: with(test.first), ConfigStateChecks: is(test.is),
					ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionCreate),
						plancheck.ExpectKnownValue(webAddress, attribute(test.attribute), test.is)),
				},
				resource.TestStep{
					ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
					ImportStateVerifyIdentifierAttribute: "name",
					ImportStateVerifyIgnore:              []string{"refresh", "agent.ready_seconds"},
				},
				resource.TestStep{PreConfig: world.ForgetCalls, Config: with(test.second), ConfigPlanChecks: changed,
					ConfigStateChecks: is(test.becomes)},
				resource.TestStep{
					PreConfig: func() {
						only()
						if test.outside != nil {
							world.Domains.Alter("web", test.outside)
						} else {
							world.Domains.Autostart("web", test.first == "true")
						}
					},
					Config: with(test.second), ConfigPlanChecks: changed, ConfigStateChecks: is(test.becomes),
				},
				resource.TestStep{Config: config(test.last)},
			)
		})
	}
}

// An imported VM is as it was: the plan after the import changes nothing but what the configuration alone has.
func TestAVMWithALifeCycleIsImportedWithAnEmptyPlan(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	const all = "autostart = true\ndeletion_protection = true\ntitle = \"Web\"\n"
	s := newSession(t, world, debian(patched)+web(all))
	s.run("apply", "-auto-approve")
	world.Domains.Alter("web", func(d *hypervisor.Domain) { d.Description = "by hand" })
	s.run("state", "rm", webAddress)
	s.run("import", "-no-color", webAddress, "web")
	if said := s.run("plan", "-no-color"); strings.Contains(said, "autostart") ||
		strings.Contains(said, "deletion_protection") ||
		strings.Contains(said, "title") || strings.Contains(said, "description") {
		t.Errorf("the plan after the import changes the life cycle:\n%s", said)
	}
}

// Texts that are not configured belong to people.
func TestATextThatIsNotConfiguredIsKept(t *testing.T) {
	world := newWorld(t)
	texts := func(title, description knownvalue.Check) []statecheck.StateCheck {
		return []statecheck.StateCheck{value(webAddress, attribute("title"), title),
			value(webAddress, attribute("description"), description)}
	}
	mine := knownvalue.StringExact("mine")
	check(t, world,
		resource.TestStep{
			Config: debian(patched) + web(""), ConfigStateChecks: texts(knownvalue.Null(), knownvalue.Null()),
			ConfigPlanChecks: plans(
				plancheck.ExpectKnownValue(webAddress, attribute("title"), knownvalue.Null()),
				plancheck.ExpectKnownValue(webAddress, attribute("description"), knownvalue.Null()),
				plancheck.ExpectKnownValue(webAddress, attribute("autostart"), knownvalue.Bool(false)),
				plancheck.ExpectKnownValue(webAddress, attribute("deletion_protection"), knownvalue.Bool(false)),
			),
		},
		resource.TestStep{
			PreConfig: func() {
				world.Domains.Alter("web", func(d *hypervisor.Domain) { d.Title, d.Description = "mine", "mine" })
			},
			Config:            debian(patched) + web(""),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: texts(mine, mine),
		},
		resource.TestStep{
			PreConfig: func() {
				// It changes after the plan has read it.
				world.SetHook(func(_ context.Context, operation, _, step string) error {
					if operation == "Update" && step == providertest.Begun {
						world.Domains.Alter("web", func(d *hypervisor.Domain) { d.Title = "mine again" })
					}
					return nil
				})
			},
			Config: debian(patched) + web(`hostname = "renamed"`),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("title"), mine)),
		},
		resource.TestStep{
			PreConfig:         func() { world.SetHook(nil) },
			Config:            debian(patched) + web("hostname = \"renamed\"\ndescription = \"ours\""),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: texts(knownvalue.StringExact("mine again"), knownvalue.StringExact("ours")),
		},
		resource.TestStep{ // it is no longer ours, and stays
			Config:            debian(patched) + web(`hostname = "renamed"`),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: texts(knownvalue.StringExact("mine again"), knownvalue.StringExact("ours")),
		},
	)
}

func TestAProtectedVMIsNeitherDestroyedNorReplaced(t *testing.T) {
	world := newWorld(t)
	config := func(name, body string) string {
		return debian(patched) + strings.Replace(web(body), `name   = "web"`, fmt.Sprintf("name = %q", name), 1)
	}
	const protected = "deletion_protection = true"
	refused := func(do string) []string {
		return []string{`Unable to ` + do + ` VM "web"`, "The VM is protected from being deleted",
			"set deletion_protection to false, apply that, and destroy it then"}
	}
	check(t, world,
		resource.TestStep{Config: config("web", protected)},
		resource.TestStep{Config: config("web", protected), Destroy: true, ExpectError: says(refused("destroy")...)},
		resource.TestStep{Config: debian(patched), ExpectError: says(refused("destroy")...)},
		resource.TestStep{Config: config("other", protected), ExpectError: says(refused("replace")...)},
		resource.TestStep{Config: config("other", "deletion_protection = false"),
			ExpectError: says(refused("replace")...)},
		resource.TestStep{Config: config("web", "deletion_protection = false"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate))},
	)
}

// The command line that destroys is recognised, which makes warnings of errors, but not of this
// one. And a state that is older than the protection does not matter.
func TestAProtectedVMOutlastsTheCommandDestroyAndAnOldState(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := newSession(t, world, debian(patched)+web("deletion_protection = true"))
	s.run("apply", "-auto-approve")
	refused := func(want string, args ...string) {
		t.Helper()
		command, output := s.command(args...)
		if err := command.Run(); err == nil || !strings.Contains(output.String(), want) {
			t.Errorf("terraform %s: %v\n%s", strings.Join(args, " "), err, output)
		}
		if left, err := world.VMs(t.Context()); err != nil || len(left) != 1 {
			t.Fatalf("VMs %v, %v", left, err)
		}
	}
	s.started = func(p *provider.Provider) { must(t, p.StartedBy("destroy", "", "")) }
	refused(`Unable to destroy VM "web"`, "destroy", "-auto-approve", "-no-color")
	refused(`Unable to destroy VM "web"`, "plan", "-destroy", "-no-color")
	s.started = nil
	// Terraform does not tell a provider that it plans to replace these.
	refused(`Unable to delete VM "web"`, "apply", "-replace="+webAddress, "-auto-approve", "-no-color")
	s.run("taint", webAddress)
	s.configure(debian(patched) + web(""))
	refused(`Unable to delete VM "web"`, "apply", "-auto-approve", "-no-color")
	s.run("untaint", webAddress)
	s.run("apply", "-auto-approve")
	world.Domains.Alter("web", func(d *hypervisor.Domain) { d.Metadata.Protected = true }) // by another workstation
	refused(`Unable to delete VM "web"`, "destroy", "-refresh=false", "-auto-approve", "-no-color")
	refused(`Unable to destroy VM "web"`, "destroy", "-auto-approve", "-no-color")
	s.run("apply", "-auto-approve")
	s.run("destroy", "-auto-approve")
	if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

// A VM whose creation was cut off has no data: it can be destroyed, and the apply that finishes it protects it.
func TestAVMIsProtectedOnceItIsMade(t *testing.T) {
	t.Parallel()
	for _, finish := range []bool{true, false} {
		t.Run(fmt.Sprintf("finished: %t", finish), func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			s := newSession(t, world, debian(patched)+web("deletion_protection = true\nautostart = true"))
			s.interrupt("Create", "starting")
			domain, _, err := world.Domains.Lookup(t.Context(), "web")
			must(t, err)
			if on, err := world.Domains.Autostarted(t.Context()); err != nil || on[domain.UUID] ||
				domain.Metadata.Protected {
				t.Errorf("before it is made it is %+v, %v, %v", domain.Metadata, on, err)
			}
			if finish {
				s.run("apply", "-auto-approve")
				domain, _, err = world.Domains.Lookup(t.Context(), "web")
				must(t, err)
				if on, err := world.Domains.Autostarted(t.Context()); err != nil || !on[domain.UUID] ||
					!domain.Metadata.Protected {
					t.Errorf("it is %+v, %v, %v", domain.Metadata, on, err)
				}
				s.configure(debian(patched) + web(""))
				s.run("apply", "-auto-approve")
			}
			s.run("destroy", "-auto-approve")
		})
	}
}

func TestAPlanWarnsOfAnAutostartThatCannotWork(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	world.Domains.NotAlone = true
	s := newSession(t, world, debian(patched)+web("autostart = true"))
	const warning = "The VM does not come up with this host"
	for _, text := range []string{warning, "/etc/libvirt/hooks/qemu.d/sharedos-vsock", "Plan: 2 to add"} {
		if said := s.run("plan", "-no-color"); !strings.Contains(said, text) {
			t.Errorf("the plan does not say %q:\n%s", text, said)
		}
	}
	s.run("apply", "-auto-approve")
	if said := s.run("plan", "-no-color"); strings.Contains(said, warning) || !strings.Contains(said, "No changes") {
		t.Errorf("the second plan is not empty:\n%s", said)
	}
	s.run("destroy", "-auto-approve")
}

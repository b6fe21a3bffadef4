package provider_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/compare"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

const toolAddress = "sharedos_component.tool"

// parts is an archive of files that a component lays over its base.
type parts struct {
	t    *testing.T
	path string
}

// newParts writes an archive of the first version of a tool.
func newParts(t *testing.T) parts {
	t.Helper()
	p := parts{t, filepath.Join(t.TempDir(), "parts.tar")}
	p.set("1")()
	return p
}

// set replaces the archive by another version.
func (p parts) set(version string) func() {
	return func() {
		p.t.Helper()
		p.write(sourcetest.System{"usr/bin/tool": "tool " + version,
			"usr/lib/systemd/system/tool.service": "[Service]\nExecStart=/usr/bin/tool\n"})
	}
}

func (p parts) write(files sourcetest.System) {
	p.t.Helper()
	stream, err := files.Tar()
	must(p.t, err)
	must(p.t, os.WriteFile(p.path, stream, 0o600))
}

// component is a component that is read from the archive.
func (p parts) component(body string) string {
	return component("tool", fmt.Sprintf("archive = { path = %q }\n%s", p.path, body))
}

// component is a component on the base of this configuration. Its name is that of the resource.
func component(name, body string) string {
	return fmt.Sprintf(`
resource "sharedos_component" %q {
  name = %q
  base = sharedos_base.debian.release
  %s
}
`, name, name, body)
}

func withTool(body string) string {
	return web("components = [sharedos_component.tool.release]\n" + body)
}

func TestAComponentMovesWithItsBaseInPlace(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	save, restore := keptOwnerOf(t, world, release.Component, "tool")
	check(t, world,
		resource.TestStep{
			Config: own.base() + tool.component("") + withTool(""),
			ConfigPlanChecks: plans(
				action(toolAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectKnownValue(toolAddress, attribute("release"), anID),
				plancheck.ExpectKnownValue(toolAddress, attribute("adds").AtMapKey("added"), positive),
				plancheck.ExpectKnownValue(webAddress, attribute("stack").AtMapKey("components"),
					knownvalue.ListSizeExact(1)),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				statecheck.CompareValuePairs(toolAddress, attribute("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
				value(toolAddress, attribute("base_name"), knownvalue.StringExact("own")),
				value(toolAddress, attribute("sequence"), knownvalue.Int64Exact(1)),
				value(toolAddress, attribute("previous"), knownvalue.Null()),
				value(toolAddress, attribute("layers"), knownvalue.ListSizeExact(1)),
				value(toolAddress, attribute("bytes"), positive),
				value(toolAddress, attribute("adds").AtMapKey("layer_bytes"), positive),
				value(toolAddress, attribute("packages"), knownvalue.MapSizeExact(0)),
				statecheck.CompareValuePairs(toolAddress, attribute("release"), webAddress,
					attribute("stack").AtMapKey("components").AtSliceIndex(0), compare.ValuesSame()),
			},
		},
		// The base gets a new release, and all that stands on it moves in the same plan.
		resource.TestStep{
			PreConfig: own.set("2"), Config: own.base() + tool.component("") + withTool(""),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				action(toolAddress, plancheck.ResourceActionUpdate),
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(toolAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("restart")),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				statecheck.CompareValuePairs(toolAddress, attribute("base"), debianAddress,
					attribute("release"), compare.ValuesSame()),
				value(toolAddress, attribute("previous"), anID),
			},
		},
		// The component alone gets a new release.
		resource.TestStep{
			PreConfig: tool.set("2"), Config: own.base() + tool.component("") + withTool(""),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionNoop),
				action(toolAddress, plancheck.ResourceActionUpdate),
				action(webAddress, plancheck.ResourceActionUpdate),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(toolAddress, attribute("sequence"),
				knownvalue.Int64Exact(3))},
		},
		resource.TestStep{
			PreConfig: save, ResourceName: toolAddress, ImportState: true, ImportStateId: "tool",
			ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
			// A manifest contains neither the source nor what the component adds.
			ImportStateVerifyIgnore: []string{"archive", "adds"},
		},
		resource.TestStep{
			PreConfig: restore, Config: own.base() + tool.component("") + withTool(""),
			ConfigPlanChecks: plans(action(toolAddress, plancheck.ResourceActionNoop)),
		},
	)
}

// A component is only built on what a base publishes.
func TestABaseThatIsNoneIsRefused(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	digits := `"sha256:` + strings.Repeat("0", 64) + `"`
	on := func(base string) string {
		return strings.NewReplacer(`"tool"`, `"other"`, "sharedos_base.debian.release",
			base).Replace(tool.component(""))
	}
	check(t, world,
		resource.TestStep{
			Config: on(digits), ExpectError: says(`Unable to build component "other"`, "there is no base release",
				"release of a sharedos_base"),
		},
		resource.TestStep{
			Config: own.base() + tool.component("") + on(toolAddress+".release"),
			ExpectError: says(`Unable to build component "other"`,
				`base is release 1 of component "tool"`, "lists all of them"),
		},
		resource.TestStep{Config: own.base() + tool.component("")},
	)
}

func TestAComponentThatVMsUseIsNotDeleted(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	check(t, world,
		resource.TestStep{Config: own.base() + tool.component("") + withTool("")},
		resource.TestStep{
			Config: own.base() + `
removed {
  from = sharedos_vm.web
  lifecycle { destroy = false }
}
`,
			ExpectError: says(`Unable to delete component "tool"`, "in use", "These VMs use it: web",
				"components of these VMs"),
		},
		resource.TestStep{PreConfig: func() { must(t, world.DropVM(t.Context(), "web")) }, Config: own.base()},
	)
}

// A component leaves a VM and is deleted as the error says: first the one, then the other.
func TestAComponentGoesAfterItsVMs(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	check(t, world,
		resource.TestStep{Config: own.base() + tool.component("") + withTool("")},
		resource.TestStep{
			Config: own.base() + tool.component("") + web(""),
			ConfigPlanChecks: plans(action(toolAddress, plancheck.ResourceActionNoop),
				action(webAddress, plancheck.ResourceActionUpdate)),
		},
		resource.TestStep{Config: own.base() + web("")},
	)
}

// With create_before_destroy, one apply takes a component out of its VMs and deletes it.
func TestAComponentGoesInOneApply(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	const inOrder = "lifecycle { create_before_destroy = true }"
	check(t, world,
		resource.TestStep{Config: own.base() + tool.component("") + withTool("")},
		resource.TestStep{Config: own.base() + web(""),
			ExpectError: says(`Unable to delete component "tool"`, "create_before_destroy = true")},
		resource.TestStep{Config: own.base() + tool.component(inOrder) + withTool("")},
		resource.TestStep{
			Config: own.base() + web(""),
			ConfigPlanChecks: plans(action(toolAddress, plancheck.ResourceActionDestroy),
				action(webAddress, plancheck.ResourceActionUpdate)),
		},
	)
}

// Another name is another component. Its VMs come to it as the warning says.
func TestAComponentIsRenamedUnderItsVMsAsTheErrorSays(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	renamed := func(more string) string {
		return own.base() + strings.Replace(tool.component(more), `name = "tool"`, `name = "other"`, 1) + withTool("")
	}
	check(t, world,
		resource.TestStep{Config: own.base() + tool.component("") + withTool("")},
		resource.TestStep{Config: renamed(""), ExpectError: says(`Unable to delete component "tool"`, "in use")},
		resource.TestStep{
			Config: renamed("lifecycle { create_before_destroy = true }"),
			Check:  resource.TestCheckResourceAttr(toolAddress, "name", "other"),
		},
	)
}

func TestAComponentOfPackagesIsReadAgainOnlyWhenAnInputChanges(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	nginx := func(body string) string {
		return own.base() + component("tool", `debian = { packages = ["nginx-light"], `+body+` }`)
	}
	check(t, world,
		resource.TestStep{
			Config:           nginx(""),
			ConfigPlanChecks: plans(plancheck.ExpectKnownValue(toolAddress, attribute("release"), anID)),
		},
		resource.TestStep{
			PreConfig: func() { world.SetDebianArchive("patched since") }, Config: nginx(""),
			ConfigPlanChecks: plans(action(toolAddress, plancheck.ResourceActionNoop)),
		},
		// The archive's state of the day on which the base moves.
		resource.TestStep{
			PreConfig: own.set("2"), Config: nginx(""),
			ConfigPlanChecks: plans(
				action(toolAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(toolAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
			),
		},
		resource.TestStep{
			PreConfig: func() { world.SetDebianArchive("patched again") }, Config: nginx(`triggers = { month = "2" }`),
			ConfigPlanChecks: plans(plancheck.ExpectKnownValue(toolAddress, attribute("sequence"),
				knownvalue.Int64Exact(3))),
		},
	)
}

// The packages of a component are those that its base does not have.
func TestThePackagesOfAComponentAreThoseThatItAdds(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	system := sourcetest.NewSystem("6.12.1")
	system.Install("tool", "7")
	tool.write(sourcetest.System{"usr/bin/tool": "tool 7",
		"usr/lib/sysimage/dpkg/status": system["var/lib/dpkg/status"]})
	added := knownvalue.MapExact(map[string]knownvalue.Check{"tool": knownvalue.StringExact("7")})
	check(t, world, resource.TestStep{
		Config: own.base() + tool.component("") + `
data "sharedos_component" "tool" {
  name       = "tool"
  depends_on = [sharedos_component.tool]
}
data "sharedos_component" "exact" { release = sharedos_component.tool.release }
`,
		ConfigPlanChecks: plans(plancheck.ExpectKnownValue(toolAddress, attribute("packages"), added)),
		ConfigStateChecks: []statecheck.StateCheck{
			value(toolAddress, attribute("packages"), added),
			value("data.sharedos_component.tool", attribute("packages"), added),
			value("data.sharedos_component.tool", attribute("base_name"), knownvalue.StringExact("own")),
			value("data.sharedos_component.exact", attribute("name"), knownvalue.StringExact("tool")),
			value("data.sharedos_component.exact", attribute("sequence"), knownvalue.Int64Exact(1)),
			statecheck.CompareValuePairs("data.sharedos_component.tool",
				attribute("history").AtSliceIndex(0).AtMapKey("base"), debianAddress,
				attribute("release"), compare.ValuesSame()),
		},
	})
}

// The layer of a component is stored once for all VMs that have it.
func TestTheUsageOfAComponentIsCountedOnce(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	second := strings.ReplaceAll(withTool(""), `"web"`, `"second"`)
	const usage = "data.sharedos_pool_usage.now"
	check(t, world, resource.TestStep{
		Config: own.base() + tool.component("") + withTool("") + second + `
data "sharedos_pool_usage" "now" { depends_on = [sharedos_vm.web, sharedos_vm.second] }
data "sharedos_component" "tool" {
  name       = "tool"
  depends_on = [sharedos_vm.web, sharedos_vm.second]
}
`,
		ConfigStateChecks: []statecheck.StateCheck{
			value(usage, attribute("components"), knownvalue.ListSizeExact(1)),
			value(usage, attribute("components").AtSliceIndex(0).AtMapKey("name"), knownvalue.StringExact("tool")),
			value(usage, attribute("components").AtSliceIndex(0).AtMapKey("vms"), knownvalue.Int64Exact(2)),
			value(usage, attribute("components").AtSliceIndex(0).AtMapKey("releases"), knownvalue.Int64Exact(1)),
			value(usage, attribute("components").AtSliceIndex(0).AtMapKey("stored_bytes"), positive),
			value(usage, attribute("components").AtSliceIndex(0).AtMapKey("full_bytes"), positive),
			value("data.sharedos_component.tool", attribute("history").AtSliceIndex(0).AtMapKey("vms"),
				knownvalue.ListExact([]knownvalue.Check{
					knownvalue.StringExact("second"), knownvalue.StringExact("web"),
				})),
		},
	})
}

// Each data source finds releases of its own kind alone.
func TestADataSourceRefusesReleasesOfTheOtherKind(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	config := own.base() + tool.component("")
	check(t, world,
		resource.TestStep{Config: config},
		resource.TestStep{
			Config:      config + `data "sharedos_component" "it" { release = sharedos_base.debian.release }`,
			ExpectError: says("Unable to find release", "is a base, not a component"),
		},
		resource.TestStep{
			Config:      config + `data "sharedos_base" "it" { release = sharedos_component.tool.release }`,
			ExpectError: says("Unable to find release", "is a component, not a base"),
		},
		resource.TestStep{Config: config + `data "sharedos_component" "it" { name = "own" }`,
			ExpectError: says(`Unable to find component "own"`)},
		resource.TestStep{Config: config},
	)
}

func TestCtrlCWhileAComponentIsMade(t *testing.T) {
	for _, moment := range []struct{ name, operation, step string }{
		{"while uploading", "Publish", "uploading the layer"},
		{"when uploaded", "Publish", providertest.Done},
	} {
		t.Run(moment.name, func(t *testing.T) {
			t.Parallel()
			world, own, tool := newWorld(t), newImage(t), newParts(t)
			s := newSession(t, world, own.base())
			s.run("apply", "-auto-approve", "-no-color")
			s.configure(own.base() + tool.component(""))
			if said := s.interrupt(moment.operation, moment.step); !strings.Contains(said, "nterrupt") {
				t.Errorf("the interrupted apply does not say so:\n%s", said)
			}
			if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
				"1 to add, 0 to change, 0 to destroy") {
				t.Errorf("the next apply:\n%s", said)
			}
			if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
				t.Errorf("the plan after it is not empty:\n%s", said)
			}
		})
	}
}

func TestAComponentBelongsToOneState(t *testing.T) {
	t.Parallel()
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	first := newSession(t, world, own.base()+tool.component(""))
	first.run("apply", "-auto-approve", "-no-color")
	read := `data "sharedos_base" "debian" { name = "own" }` + "\n" +
		strings.Replace(tool.component(""), "sharedos_base", "data.sharedos_base", 1)
	second := newSession(t, world, read)
	said := second.refused("apply", "-auto-approve", "-no-color")
	for _, part := range []string{"belongs to another Terraform state", "data source sharedos_component",
		"terraform import ADDRESS tool"} {
		if !strings.Contains(said, part) {
			t.Errorf("the other state's apply does not say %q: %s", part, said)
		}
	}
	// An import hands it over.
	second.run("import", "-no-color", toolAddress, "tool")
	if said := oneLine(first.run("plan", "-no-color")); !strings.Contains(said,
		`component "tool" belongs to another Terraform state`) {
		t.Errorf("the first state's plan says: %s", said)
	}
	tool.set("2")()
	if said := second.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"0 added, 1 changed, 0 destroyed") {
		t.Errorf("the new owner's apply says: %s", said)
	}
	second.run("destroy", "-auto-approve", "-no-color")
	first.run("destroy", "-auto-approve", "-no-color")
}

// A base that components are built on is not deleted, and comes by another name as the error says.
func TestABaseIsRenamedUnderItsComponentsAsTheErrorSays(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	renamed := func(more string) string {
		return strings.Replace(own.base(), `name    = "own"`, `name = "other"`+"\n"+more, 1) + tool.component("")
	}
	check(t, world,
		resource.TestStep{Config: own.base() + tool.component("")},
		resource.TestStep{
			Config: renamed(""),
			ExpectError: says(`Unable to delete base "own"`, `component "tool" is built on it`,
				"create_before_destroy = true"),
		},
		resource.TestStep{
			Config: renamed("lifecycle { create_before_destroy = true }"),
			Check:  resource.TestCheckResourceAttr(toolAddress, "base_name", "other"),
		},
	)
}

// What does not go together fails the plan: the error names the attribute, both sides and what to do.
func TestComponentsThatDoNotGoTogetherFailThePlan(t *testing.T) {
	world, own, tool, twin, foreign := newWorld(t), newImage(t), newParts(t), newParts(t), newImage(t)
	foreign.set("9")()
	twin.set("other")()
	twins := strings.ReplaceAll(twin.component(""), `"tool"`, `"twin"`)
	elsewhere := strings.NewReplacer(`"debian"`, `"foreign"`, `"own"`, `"foreign"`).Replace(foreign.base()) +
		strings.NewReplacer(`"tool"`, `"elsewhere"`, "sharedos_base.debian",
			"sharedos_base.foreign").Replace(tool.component(""))
	all := own.base() + tool.component("") + twins + elsewhere
	list := func(elements string) string { return web("components = [" + elements + "]") }
	steps := []resource.TestStep{{Config: all}}
	for _, one := range []struct {
		vm   string
		want []string
	}{
		{list("sharedos_base.debian.release"), []string{"components", "base \"own\"", "sharedos_component resources"}},
		{strings.Replace(withTool(""), "base   = sharedos_base.debian.release",
			"base   = sharedos_component.twin.release", 1),
			[]string{`component "twin"`, "Set base to the attribute release of a sharedos_base"}},
		{list("sharedos_component.elsewhere.release"), []string{`component "elsewhere"`, "was built on base release", `base "own"`, "same base release"}},
		{list("sharedos_component.tool.release, sharedos_component.twin.release"), []string{"/usr/bin/tool", `"tool"`, `"twin"`, "Remove one of the two"}},
		{list(`"sha256:` + strings.Repeat("0", 64) + `"`), []string{"there is no release", "release of a sharedos_component"}},
	} {
		steps = append(steps,
			resource.TestStep{Config: all + one.vm,
				ExpectError: says(append([]string{`Unable to plan VM "web"`}, one.want...)...)})
	}
	check(t, world, append(steps, resource.TestStep{Config: all + withTool("")})...)
}

// Two components have the same path with different content, and prefer says which one it is.
func TestAPreferenceAmongComponents(t *testing.T) {
	world, own, tool, twin := newWorld(t), newImage(t), newParts(t), newParts(t)
	twin.set("other")()
	all := own.base() + tool.component("") + strings.ReplaceAll(twin.component(""), `"tool"`, `"twin"`)
	with := func(prefer string) string {
		return all + web("components = [sharedos_component.tool.release, sharedos_component.twin.release]\n"+prefer)
	}
	joined := value(webAddress, attribute("stack").AtMapKey("layers"), knownvalue.ListSizeExact(4))
	id := statecheck.CompareValue(compare.ValuesDiffer())
	differs := func() statecheck.StateCheck { return id.AddStateValue(webAddress, attribute("stack").AtMapKey("id")) }
	check(t, world,
		resource.TestStep{Config: with(""),
			ExpectError: says(`Unable to plan VM "web"`, "/usr/bin/tool", "prefer = {", `"/usr/bin/tool" = "twin"`)},
		resource.TestStep{Config: with(`prefer = { "/usr/bin/tool" = "nobody" }`),
			ExpectError: says(`"nobody" is preferred`, "Name a component of the VM in prefer")},
		resource.TestStep{Config: with(`prefer = { "usr/bin" = "tool" }`),
			ExpectError: says("prefer", "an absolute path")},
		resource.TestStep{Config: with(`prefer = { "/usr/bin/tool" = "tool" }`),
			ConfigStateChecks: []statecheck.StateCheck{joined, differs()}},
		resource.TestStep{
			ResourceName: webAddress, ImportState: true, ImportStateId: "web",
			ImportStateVerifyIdentifierAttribute: "name",
			ImportStateCheck: func(states []*terraform.InstanceState) error {
				if got := states[0].Attributes["prefer./usr/bin/tool"]; got != "tool" {
					return fmt.Errorf("imported prefer %q", got)
				}
				return nil
			},
		},
		// The other way round, by a refresh.
		resource.TestStep{
			Config:            with(`prefer = { "/usr/bin" = "twin", "/etc/none" = "tool" }`),
			ConfigPlanChecks:  plans(action(webAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{joined, differs()},
		},
		resource.TestStep{Config: all + withTool(""),
			ConfigStateChecks: []statecheck.StateCheck{value(webAddress, attribute("prefer"), knownvalue.Null())}},
	)
}

// A path in prefer that settles nothing is a warning of the plan.
func TestAPreferenceThatSettlesNothing(t *testing.T) {
	t.Parallel()
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	s := newSession(t, world, own.base()+tool.component("")+withTool(`prefer = { "/etc/none" = "tool" }`))
	if said := s.run("plan", "-no-color"); !says(`in prefer of VM "web" settles nothing`, "/etc/none",
		"Remove the path").MatchString(said) {
		t.Errorf("it says:\n%s", said)
	}
	s.run("apply", "-auto-approve", "-no-color")
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}

// With build_at_plan = false a plan makes no joining layer either. It says what that costs, and the apply makes it.
func TestAPlanThatBuildsNothingMakesNoJoiningLayer(t *testing.T) {
	t.Parallel()
	world, own, tool, twin := newWorld(t), newImage(t), newParts(t), newParts(t)
	twin.set("other")()
	lazy := "provider \"sharedos\" {\n  build_at_plan = false\n}\n"
	all := lazy + own.base() + tool.component("") + strings.ReplaceAll(twin.component(""), `"tool"`, `"twin"`)
	with := func(prefer string) string {
		return all + web(
			"components = [sharedos_component.tool.release, sharedos_component.twin.release]\nprefer = { \"/usr/bin/tool\" = \""+prefer+"\" }")
	}
	s := newSession(t, world, all)
	s.run("apply", "-auto-approve", "-no-color")
	for _, prefer := range []string{"tool", "twin"} { // for a new VM, and for one that exists
		s.configure(with(prefer))
		if said := s.run("plan", "-no-color"); !says(`This plan does not know the stack of VM "web"`,
			"build_at_plan is false").MatchString(said) {
			t.Errorf("it says:\n%s", said)
		}
		s.run("apply", "-auto-approve", "-no-color")
		if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
			t.Errorf("the plan after it is not empty:\n%s", said)
		}
	}
}

func TestCtrlCWhileAPlanBuildsAComponent(t *testing.T) {
	t.Parallel()
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	s := newSession(t, world, own.base())
	s.run("apply", "-auto-approve", "-no-color")
	before, err := world.Left(t.Context())
	must(t, err)
	s.configure(own.base() + tool.component(""))
	if said := s.interruptCommand("Prepare", "writing the layer", "plan",
		"-no-color"); !strings.Contains(said, "nterrupt") {
		t.Errorf("the interrupted plan does not say so:\n%s", said)
	}
	left, err := world.Left(t.Context())
	must(t, err)
	if new := slices.DeleteFunc(left, func(name string) bool { return slices.Contains(before, name) }); len(new) > 0 {
		t.Errorf("a plan left %v on the host", new)
	}
	if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"1 to add, 0 to change, 0 to destroy") {
		t.Errorf("the next apply:\n%s", said)
	}
}

// A plan that builds nothing says what that costs, and the apply builds.
func TestAPlanThatBuildsNoComponentSaysWhatThatCosts(t *testing.T) {
	t.Parallel()
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	lazy := "provider \"sharedos\" {\n  build_at_plan = false\n}\n"
	s := newSession(t, world, lazy+own.base())
	s.run("apply", "-auto-approve", "-no-color")
	s.configure(lazy + own.base() + tool.component("") + withTool(""))
	if said := s.run("plan", "-no-color"); !says(`This plan does not know the next release of component "tool"`,
		"build_at_plan is false").MatchString(said) {
		t.Errorf("it says:\n%s", said)
	}
	s.run("apply", "-auto-approve", "-no-color")
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}

// The pool keeps as many releases of a component as it says, and verifies them like those of a base.
func TestAComponentKeepsTheReleasesThatItRetains(t *testing.T) {
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	config := own.base() + tool.component("retain = 1") + `
data "sharedos_component" "tool" {
  name       = "tool"
  depends_on = [sharedos_component.tool]
}
data "sharedos_verify" "tool" {
  component  = "tool"
  depends_on = [sharedos_component.tool]
}
`
	const read, verified = "data.sharedos_component.tool", "data.sharedos_verify.tool"
	check(t, world,
		resource.TestStep{
			Config: config,
			ConfigStateChecks: []statecheck.StateCheck{
				// A manifest, a layer and a contents list.
				value(verified, attribute("objects"), knownvalue.Int64Exact(3)),
				value(verified, attribute("damaged"), knownvalue.ListSizeExact(0)),
			},
		},
		resource.TestStep{
			PreConfig: tool.set("2"), Config: config,
			ConfigStateChecks: []statecheck.StateCheck{
				value(read, attribute("sequence"), knownvalue.Int64Exact(2)),
				value(read, attribute("history"), knownvalue.ListSizeExact(1)),
				value(verified, attribute("objects"), knownvalue.Int64Exact(3)),
			},
		},
		resource.TestStep{
			Config: config + `data "sharedos_verify" "both" {
  base      = "own"
  component = "tool"
}`,
			ExpectError: says("cannot be configured together", "base", "component"),
		},
		resource.TestStep{Config: config},
	)
}

// The first apply after an import publishes nothing if the source adds the same.
func TestAnImportedComponentIsNotPublishedAgain(t *testing.T) {
	t.Parallel()
	world, own, tool := newWorld(t), newImage(t), newParts(t)
	first := newSession(t, world, own.base()+tool.component(""))
	first.run("apply", "-auto-approve", "-no-color")
	second := newSession(t, world,
		`data "sharedos_base" "debian" { name = "own" }`+"\n"+
			strings.Replace(tool.component(""), "sharedos_base", "data.sharedos_base", 1))
	second.run("import", "-no-color", toolAddress, "tool")
	said := second.run("plan", "-no-color")
	if !strings.Contains(said, "0 to add, 1 to change, 0 to destroy") || strings.Contains(said, "~ release") ||
		strings.Contains(said, "~ sequence") {
		t.Errorf("the plan after the import:\n%s", said)
	}
	second.run("apply", "-auto-approve", "-no-color")
	if said := second.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after the apply is not empty:\n%s", said)
	}
	history, err := world.Volumes.History(t.Context(), release.Component, "tool")
	if err != nil || len(history.Releases) != 1 {
		t.Errorf("the pool has %d releases, %v", len(history.Releases), err)
	}
}

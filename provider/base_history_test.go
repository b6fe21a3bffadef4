package provider_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/compare"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"
	"github.com/hashicorp/terraform-plugin-testing/tfjsonpath"
)

// retaining is the base of the image with a value for retain.
func (i image) retaining(newest int) string {
	return strings.Replace(i.base(), "}\n", fmt.Sprintf("}\n  retain = %d\n", newest), 1)
}

// hostedBy is a VM that refers to a release and does not run.
func hostedBy(name, release string) string {
	return fmt.Sprintf(`
resource "sharedos_vm" %[1]q {
  name    = %[1]q
  base    = %[2]s
  memory  = "512MiB"
  disk    = { size = "64MiB" }
  running = false
}
`, name, release)
}

// aTime is a time in the form of RFC 3339, in UTC.
var aTime = knownvalue.StringRegexp(regexp.MustCompile(`^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$`))

// numbered checks the sequence numbers of the releases in a history.
func numbered(address string, numbers ...int64) statecheck.StateCheck {
	checks := make([]knownvalue.Check, len(numbers))
	for i, number := range numbers {
		checks[i] = knownvalue.ObjectPartial(map[string]knownvalue.Check{
			"sequence": knownvalue.Int64Exact(number), "release": anID, "bytes": positive, "published": aTime,
		})
	}
	return value(address, attribute("history"), knownvalue.ListExact(checks))
}

func TestABaseKeepsItsNewestReleasesAndThoseThatVMsReferTo(t *testing.T) {
	world := newWorld(t)
	own := newImage(t)
	retaining := func(newest int) string {
		return own.retaining(newest) +
			"\ndata \"sharedos_base\" \"own\" {\n  name = \"own\"\n  depends_on = [sharedos_base.debian]\n}\n"
	}
	const kept = "data.sharedos_base.own"
	// A VM stays on the first release, which it gets from a data source.
	pinned := func() string {
		return retaining(2) + hostedBy("old", "data.sharedos_base.first.release") + `
data "sharedos_base" "first" {
  name     = "own"
  sequence = 1
}
`
	}
	history := attribute("history")
	save, restore := keptOwner(t, world, "own")
	step := func(version, config string, numbers ...int64) resource.TestStep {
		return resource.TestStep{
			PreConfig: own.set(version), Config: config,
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
			),
			ConfigStateChecks: []statecheck.StateCheck{numbered(kept, numbers...)},
		}
	}
	check(t, world,
		resource.TestStep{Config: retaining(2), ConfigStateChecks: []statecheck.StateCheck{
			numbered(kept, 1),
			value(kept, history.AtSliceIndex(0).AtMapKey("added_bytes"), positive),
			value(kept, history.AtSliceIndex(0).AtMapKey("vms"), knownvalue.ListSizeExact(0)),
		}},
		resource.TestStep{Config: pinned()},
		step("2", pinned(), 2, 1),
		step("3", pinned(), 3, 2, 1),
		step("4", pinned(), 4, 3, 1),
		resource.TestStep{
			Config: pinned(), ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{
				value(kept, history.AtSliceIndex(2).AtMapKey("vms"),
					knownvalue.ListExact([]knownvalue.Check{knownvalue.StringExact("old")})),
			},
		},
		resource.TestStep{
			PreConfig: save, ResourceName: debianAddress, ImportState: true, ImportStateId: "own",
			ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
			ImportStateVerifyIgnore: []string{"archive", "change", "retain"},
		},
		// Without the VM, the release that only it referred to is deleted. A smaller retain deletes the others.
		resource.TestStep{PreConfig: restore, Config: retaining(2)},
		resource.TestStep{
			Config: retaining(2), ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{numbered(kept, 4, 3)},
		},
		resource.TestStep{
			Config: retaining(1),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
			),
			ConfigStateChecks: []statecheck.StateCheck{numbered(kept, 4)},
		},
	)
}

func TestABaseOfAnotherConfigurationIsFound(t *testing.T) {
	world := newWorld(t)
	own := newImage(t)
	// This is what another configuration reads.
	find := func(name, body string) string {
		return fmt.Sprintf("\ndata \"sharedos_base\" %q {\n  %s\n  depends_on = [sharedos_base.debian]\n}\n", name,
			body)
	}
	newest, exact := statecheck.CompareValue(compare.ValuesSame()), statecheck.CompareValue(compare.ValuesSame())
	found := "data.sharedos_base."
	check(t, world,
		resource.TestStep{Config: own.base()},
		resource.TestStep{
			PreConfig: own.set("2"),
			Config:    own.base() + find("newest", `name = "own"`) + find("first", "name = \"own\"\n  sequence = 1"),
			ConfigStateChecks: []statecheck.StateCheck{
				newest.AddStateValue(debianAddress, attribute("release")),
				newest.AddStateValue(found+"newest", attribute("release")),
				value(found+"newest", attribute("sequence"), knownvalue.Int64Exact(2)),
				value(found+"newest", attribute("kernel"), knownvalue.StringExact("6.12.2")),
				value(found+"newest", attribute("layers"), knownvalue.ListSizeExact(2)),
				numbered(found+"newest", 2, 1),
				value(found+"first", attribute("sequence"), knownvalue.Int64Exact(1)),
				value(found+"first", attribute("kernel"), knownvalue.StringExact("6.12.1")),
				value(found+"first", attribute("previous"), knownvalue.Null()),
			},
		},
		resource.TestStep{
			Config: own.base() + find("first", "name = \"own\"\n  sequence = 1") +
				find("exact", "release = data.sharedos_base.first.release"),
			ConfigStateChecks: []statecheck.StateCheck{
				exact.AddStateValue(found+"first", attribute("release")),
				exact.AddStateValue(found+"exact", attribute("release")),
				value(found+"exact", attribute("name"), knownvalue.StringExact("own")),
			},
		},
		resource.TestStep{
			Config: own.base() + find("third", "name = \"own\"\n  sequence = 3"),
			ExpectError: says(`Unable to find release 3 of base "own"`, "the pool keeps no such release",
				"It keeps the releases 2, 1"),
		},
		resource.TestStep{
			Config:      own.base() + find("other", `name = "other"`),
			ExpectError: says(`Unable to find base "other"`, "not in the store"),
		},
		resource.TestStep{
			Config:      own.base() + find("none", ""),
			ExpectError: says("At least one of these attributes must be configured", "name", "release"),
		},
		resource.TestStep{
			Config: own.base() +
				find("both", "name = \"own\"\n  sequence = 1\n  release = sharedos_base.debian.release"),
			ExpectError: says("cannot be configured together"),
		},
	)
}

// A plan knows a release before it is published, and so does a data source that refers to it.
func TestAReleaseThatIsPlannedIsFound(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	const found = "data.sharedos_base.all"
	config := own.base() + "\ndata \"sharedos_base\" \"all\" {\n  release = sharedos_base.debian.release\n}\n"
	same := statecheck.CompareValuePairs(found, attribute("release"), debianAddress,
		attribute("release"), compare.ValuesSame())
	server := func(version string) statecheck.StateCheck {
		return value(found, attribute("packages").AtMapKey("server"), knownvalue.StringExact(version))
	}
	check(t, world,
		resource.TestStep{Config: config, ConfigStateChecks: []statecheck.StateCheck{same, server("1")}},
		resource.TestStep{PreConfig: own.set("2"), Config: config, ConfigStateChecks: []statecheck.StateCheck{same}},
	)
}

func TestPoolUsageShowsWhatSharingSaves(t *testing.T) {
	world := newWorld(t)
	own := newImage(t)
	const usage = "data.sharedos_pool_usage.all"
	config := own.base() + hostedBy("a", "sharedos_base.debian.release") +
		hostedBy("b", "sharedos_base.debian.release") + `
data "sharedos_pool_usage" "all" {
  depends_on = [sharedos_vm.a, sharedos_vm.b]
}
`
	of := func(list string, i int, name string) tfjsonpath.Path {
		return attribute(list).AtSliceIndex(i).AtMapKey(name)
	}
	check(t, world,
		resource.TestStep{Config: own.base()},
		resource.TestStep{
			PreConfig: own.set("2"), Config: config,
			ConfigStateChecks: []statecheck.StateCheck{
				value(usage, attribute("stored_bytes"), positive),
				value(usage, attribute("full_bytes"), positive),
				value(usage, attribute("bases"), knownvalue.ListSizeExact(1)),
				value(usage, of("bases", 0, "releases"), knownvalue.Int64Exact(2)),
				value(usage, attribute("releases"), knownvalue.ListSizeExact(2)),
				value(usage, of("releases", 0, "sequence"), knownvalue.Int64Exact(2)),
				value(usage, of("releases", 0, "own_bytes"), positive),
				value(usage, of("releases", 1, "own_bytes"), positive),
				value(usage, attribute("vms"), knownvalue.ListSizeExact(2)),
				value(usage, of("vms", 0, "name"), knownvalue.StringExact("a")),
				value(usage, of("vms", 0, "release"), anID),
				value(usage, of("vms", 1, "full_bytes"), positive),
			},
			Check: func(state *terraform.State) error {
				bytes := map[string]int64{}
				for _, name := range []string{"stored", "full", "saved"} {
					n, err := strconv.ParseInt(state.RootModule().Resources[usage].Primary.Attributes[name+"_bytes"],
						10, 64)
					if err != nil {
						return err
					}
					bytes[name] = n
				}
				if bytes["saved"] != bytes["full"]-bytes["stored"] {
					return fmt.Errorf("what is saved is not the difference: %v", bytes)
				}
				return nil
			},
		},
	)
}

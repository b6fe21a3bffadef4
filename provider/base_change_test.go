package provider_test

import (
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// put replaces the archive by one of a system.
func (i image) put(system sourcetest.System) func() {
	return func() {
		i.t.Helper()
		stream, err := system.Tar()
		must(i.t, err)
		must(i.t, os.WriteFile(i.path, stream, 0o600))
	}
}

func planned(at string, want knownvalue.Check) plancheck.PlanCheck {
	return plancheck.ExpectKnownValue(debianAddress, attribute("change").AtMapKey(at), want)
}

func TestAPlanShowsWhatANewReleaseChanges(t *testing.T) {
	own := newImage(t)
	before := sourcetest.NewSystem("6.12.1").With("usr/share/old", "goes")
	after := sourcetest.NewSystem("6.12.1").With("usr/share/new", "comes", "usr/bin/server", "version 2",
		"var/lib/dpkg/status", "", "srv/new", "the VM's")
	after.Install("server", "2")
	after.Install("library", "1.0-1")
	status := int64(len(after["var/lib/dpkg/status"]))
	number := func(n int64) knownvalue.Check { return knownvalue.Int64Exact(n) }
	check(t, newWorld(t),
		resource.TestStep{
			PreConfig: own.put(before), Config: own.base(),
			ConfigStateChecks: []statecheck.StateCheck{
				value(debianAddress, attribute("change"), knownvalue.Null()),
				value(debianAddress, attribute("deltas_left"), number(7)),
			},
		},
		resource.TestStep{
			PreConfig: own.put(after), Config: own.base(),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				planned("packages", knownvalue.MapExact(map[string]knownvalue.Check{
					"library": knownvalue.StringExact("1.0-1 added"), "server": knownvalue.StringExact("1 → 2"),
				})),
				planned("kernel_from", knownvalue.StringExact("6.12.1")),
				planned("kernel_to", knownvalue.StringExact("6.12.1")),
				planned("added", number(1)), planned("added_bytes", number(int64(len("comes")))),
				planned("changed", number(2)), planned("changed_bytes", number(int64(len("version 2"))+status)),
				planned("removed", number(1)), planned("removed_bytes", number(int64(len("goes")))),
				planned("layer_bytes", positive),
				planned("rebase", knownvalue.Bool(false)), planned("rebase_reason", knownvalue.Null()),
				planned("pinned_accounts", knownvalue.Null()),
				planned("summary", knownvalue.StringExact(`packages: 1 changed, 1 added, 0 removed
kernel:   6.12.1 as before
files:    2 changed (168 bytes), 1 added (5 bytes), 1 removed (4 bytes)
layer:    a delta of 8.0 KiB over 1 below
VM's own: 1 differ, and existing VMs keep theirs: /srv/new
`)),
				planned("vm_owned", number(1)),
				planned("vm_owned_paths", knownvalue.ListExact([]knownvalue.Check{knownvalue.StringExact("/srv/new")})),
				plancheck.ExpectKnownValue(debianAddress, attribute("deltas_left"), number(6)),
			),
		},
		// If only the kernel image changes, no layer is needed.
		resource.TestStep{
			PreConfig: own.put(after.With("boot/vmlinuz-6.12.1", "patched")), Config: own.base(),
			ConfigPlanChecks: plans(
				planned("layer_bytes", number(0)), planned("changed", number(0)),
				planned("summary", knownvalue.StringExact(`packages: 0 changed, 0 added, 0 removed
kernel:   6.12.1 as before
files:    0 changed, 0 added, 0 removed
layer:    none written: the files are the same
`)),
			),
		},
	)
}

func TestAPlanShowsAFullLayerAndTheReason(t *testing.T) {
	own := newImage(t)
	const chain = "provider \"sharedos\" { max_layers = 2 }\n"
	left := func(n int64) plancheck.PlanCheck {
		return plancheck.ExpectKnownValue(debianAddress, attribute("deltas_left"), knownvalue.Int64Exact(n))
	}
	check(t, newWorld(t),
		resource.TestStep{Config: chain + own.base(), ConfigPlanChecks: plans(left(1))},
		resource.TestStep{
			PreConfig: own.set("2"), Config: chain + own.base(),
			ConfigPlanChecks: plans(planned("rebase", knownvalue.Bool(false)), left(0),
				plancheck.ExpectKnownValue(debianAddress, attribute("next_layer"),
					knownvalue.StringExact("a full layer: 2 of at most 2 layers are there"))),
		},
		resource.TestStep{
			PreConfig: own.set("3"), Config: chain + own.base(),
			ConfigPlanChecks: plans(
				planned("rebase", knownvalue.Bool(true)),
				planned("rebase_reason", knownvalue.StringExact("the previous release has 2 of at most 2 layers")),
				plancheck.ExpectKnownValue(debianAddress, attribute("layers"), knownvalue.ListSizeExact(1)),
				left(1),
			),
		},
		// A delta that is larger than max_delta_percent becomes a full layer, however few layers there are.
		resource.TestStep{
			PreConfig: own.put(sourcetest.NewSystem("6.12.3").With("usr/share/more", strings.Repeat("m", 30_000))),
			Config:    "provider \"sharedos\" { max_delta_percent = 10 }\n" + own.base(),
			ConfigPlanChecks: plans(
				planned("rebase_reason",
					knownvalue.StringExact("a delta would have 19% of the content, and at most 10% is allowed")),
			),
		},
	)
}

func TestMaxLayersAndMaxDeltaPercentHaveBounds(t *testing.T) {
	own := newImage(t)
	for option, want := range map[string]string{
		"max_layers = 0": "between 1 and 16", "max_layers = 17": "between 1 and 16",
		"max_delta_percent = 0": "between 1 and 100", "max_delta_percent = 101": "between 1 and 100",
	} {
		t.Run(option, func(t *testing.T) {
			check(t, newWorld(t), resource.TestStep{
				Config: "provider \"sharedos\" { " + option + " }\n" + own.base(), ExpectError: says(want),
			})
		})
	}
}

func TestMovedAccountsAreRefusedUnlessPinned(t *testing.T) {
	own := newImage(t)
	moved := sourcetest.NewSystem("6.12.1").With("etc/passwd",
		"root:x:0:0::/root:/bin/sh\nwww-data:x:34:33::/:/bin/false\n",
		"usr/bin/server", "version 2")
	pinned := strings.Replace(own.base(), "archive =", "pin_accounts = true\n  archive =", 1)
	check(t, newWorld(t),
		resource.TestStep{Config: own.base()},
		resource.TestStep{
			PreConfig: own.put(moved), Config: own.base(),
			ExpectError: says(`Unable to plan base "own"`, "user www-data from 33 to 34", "pin_accounts = true"),
		},
		resource.TestStep{
			// While pin_accounts is unknown, the release is unknown, too.
			Config: strings.Replace(pinned, "= true", "= terraform_data.pin.output", 1) +
				`resource "terraform_data" "pin" { input = true }`,
			ConfigPlanChecks: resource.ConfigPlanChecks{PreApply: []plancheck.PlanCheck{
				plancheck.ExpectUnknownValue(debianAddress, attribute("release")),
			}},
			ConfigStateChecks: []statecheck.StateCheck{value(debianAddress, attribute("sequence"),
				knownvalue.Int64Exact(2))},
		},
		resource.TestStep{
			PreConfig: own.put(moved.With("usr/bin/server", "version 3")), Config: pinned,
			ConfigPlanChecks: plans(planned("pinned_accounts", knownvalue.ListExact([]knownvalue.Check{
				knownvalue.StringExact("user www-data from 34 to 33"),
			}))),
		},
	)
}

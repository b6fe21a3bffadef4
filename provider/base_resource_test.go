package provider_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/compare"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/tfjsonpath"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

const debianAddress = "sharedos_base.debian"

// positive is a number of bytes greater than zero.
var positive = knownvalue.Int64Func(func(v int64) error {
	if v <= 0 {
		return fmt.Errorf("it is %d", v)
	}
	return nil
})

// anID matches the id of a release or layer.
var anID = knownvalue.StringRegexp(regexp.MustCompile(`^sha256:[0-9a-f]{64}$`))

func debian(body string) string {
	return fmt.Sprintf(`
resource "sharedos_base" "debian" {
  name   = "debian-13"
  debian = { suite = "trixie", %s }
}
`, body)
}

const (
	unpatched = `additional_suites = [], packages = ["systemd-sysv", "linux-image-cloud-amd64"]`
	patched   = `packages = ["linux-image-cloud-amd64", "systemd-sysv"]`
)

func attribute(name string) tfjsonpath.Path { return tfjsonpath.New(name) }

func action(address string, action plancheck.ResourceActionType) plancheck.PlanCheck {
	return plancheck.ExpectResourceAction(address, action)
}

func plans(checks ...plancheck.PlanCheck) resource.ConfigPlanChecks {
	return resource.ConfigPlanChecks{PreApply: checks,
		PostApplyPostRefresh: []plancheck.PlanCheck{plancheck.ExpectEmptyPlan()}}
}

func value(address string, at tfjsonpath.Path, want knownvalue.Check) statecheck.StateCheck {
	return statecheck.ExpectKnownValue(address, at, want)
}

func TestABasePatchedInPlace(t *testing.T) {
	world := newWorld(t)
	save, restore := keptOwner(t, world, "debian-13")
	check(t, world,
		resource.TestStep{
			Config: debian(unpatched),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				value(debianAddress, attribute("release"), anID),
				value(debianAddress, attribute("sequence"), knownvalue.Int64Exact(1)),
				value(debianAddress, attribute("previous"), knownvalue.Null()),
				value(debianAddress, attribute("change"), knownvalue.Null()),
				// A plan that does not build the next release shows this as the old value.
				value(debianAddress, attribute("next_layer"), knownvalue.StringExact(
					"a delta over 1 of at most 8 layers, or a full layer if it would hold more than 50% of the content")),
				value(debianAddress, attribute("bytes"), positive),
				value(debianAddress, attribute("layers").AtSliceIndex(0).AtMapKey("delta"), knownvalue.Bool(false)),
			},
		},
		resource.TestStep{
			Config: debian(patched),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
				plancheck.ExpectKnownValue(debianAddress, attribute("change").AtMapKey("layer_bytes"), positive),
				plancheck.ExpectKnownValue(debianAddress, attribute("next_layer"), knownvalue.NotNull()),
			),
			ConfigStateChecks: []statecheck.StateCheck{
				value(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
				value(debianAddress, attribute("previous"), anID),
				value(debianAddress, attribute("layers"), knownvalue.ListSizeExact(2)),
				value(debianAddress, attribute("change").AtMapKey("layer_bytes"), positive),
				value(debianAddress, attribute("change").AtMapKey("packages"),
					knownvalue.MapExact(map[string]knownvalue.Check{
						"linux-image-cloud-amd64": knownvalue.StringExact("1-main → 1-patched"),
						"systemd-sysv":            knownvalue.StringExact("1-main → 1-patched"),
					})),
			},
		},
		resource.TestStep{
			PreConfig: save, ResourceName: debianAddress, ImportState: true, ImportStateId: "debian-13",
			ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
			// A manifest contains neither the source nor the change.
			ImportStateVerifyIgnore: []string{"debian", "change"},
		},
		resource.TestStep{PreConfig: restore, Config: debian(patched),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop))},
	)
}

func TestDebiansArchiveIsReadAgainOnlyWhenAnInputChanges(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: debian(patched)},
		resource.TestStep{
			PreConfig:        func() { world.SetDebianArchive("patched since") },
			Config:           debian(patched),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
		},
		resource.TestStep{
			Config: debian(patched + `, triggers = { month = "2" }`),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
			),
			ConfigStateChecks: []statecheck.StateCheck{value(debianAddress, attribute("sequence"),
				knownvalue.Int64Exact(2))},
		},
		// A new input that results in the same system is not a new release.
		resource.TestStep{
			Config:           debian(patched + `, triggers = { month = "2" }, components = ["main"]`),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(debianAddress, attribute("sequence"),
				knownvalue.Int64Exact(2))},
		},
	)
}

func TestABaseInTheCacheIsKnownInThePlan(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: debian(patched)},
		resource.TestStep{Config: debian(patched), Destroy: true},
		resource.TestStep{
			Config: debian(patched),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
				plancheck.ExpectKnownValue(debianAddress, attribute("kernel"), knownvalue.NotNull()),
				plancheck.ExpectKnownValue(debianAddress, attribute("change"), knownvalue.Null()),
			),
		},
	)
}

func archive(name, file string) string {
	return fmt.Sprintf(`
resource "sharedos_base" "debian" {
  name    = %q
  archive = { path = %q }
}
`, name, file)
}

func TestAnArchiveIsReadWhilePlanning(t *testing.T) {
	world := newWorld(t)
	own := newImage(t)
	moved := image{t, filepath.Join(t.TempDir(), "elsewhere.tar")}
	release := statecheck.CompareValue(compare.ValuesSame())
	same := func() []statecheck.StateCheck {
		return []statecheck.StateCheck{release.AddStateValue(debianAddress, attribute("release"))}
	}
	check(t, world,
		resource.TestStep{
			Config: own.base(),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
			),
		},
		// No attribute changes; the bytes do.
		resource.TestStep{
			PreConfig: own.set("2"), Config: own.base(),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
				plancheck.ExpectKnownValue(debianAddress, attribute("change").AtMapKey("changed"), positive),
			),
			ConfigStateChecks: same(),
		},
		// Without a cache, as on another machine, an unchanged file is still recognised.
		resource.TestStep{
			PreConfig: func() { must(t, world.ForgetCache()); world.ForgetCalls() }, Config: own.base(),
			ConfigPlanChecks:  plans(action(debianAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: same(),
		},
		// The same bytes elsewhere are the same release.
		resource.TestStep{
			PreConfig: func() {
				for _, call := range world.Calls() {
					if strings.HasPrefix(call, "Prepare") {
						t.Errorf("a plan with nothing to do called %s", call)
					}
				}
				moved.set("2")()
			},
			Config: moved.base(),
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
			),
			ConfigStateChecks: same(),
		},
	)
}

// The compression of an archive does not change the release.
func TestAPackedArchiveIsTheSameRelease(t *testing.T) {
	own := newImage(t)
	plain, err := os.ReadFile(own.path)
	must(t, err)
	steps := []resource.TestStep{{Config: own.base()}}
	release := statecheck.CompareValue(compare.ValuesSame())
	steps[0].ConfigStateChecks = []statecheck.StateCheck{release.AddStateValue(debianAddress, attribute("release"))}
	for suffix, packer := range map[string]func(io.Writer) (io.WriteCloser, error){
		"gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
		"zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		"xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	} {
		var packed bytes.Buffer
		w, err := packer(&packed)
		must(t, err)
		_, err = w.Write(plain)
		must(t, errors.Join(err, w.Close()))
		path := own.path + "." + suffix
		must(t, os.WriteFile(path, packed.Bytes(), 0o600))
		steps = append(steps, resource.TestStep{
			Config:            archive("own", path),
			ConfigPlanChecks:  plans(plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID)),
			ConfigStateChecks: []statecheck.StateCheck{release.AddStateValue(debianAddress, attribute("release"))},
		})
	}
	check(t, newWorld(t), steps...)
}

func TestABaseThatSomebodyDeletedIsMadeAgain(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: debian(patched)},
		resource.TestStep{
			PreConfig: func() { must(t, world.DropBase(t.Context(), "debian-13")) }, Config: debian(patched),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionCreate)),
		},
	)
}

func TestAnotherNameIsAnotherBase(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: debian(patched)},
		resource.TestStep{
			Config:           strings.Replace(debian(patched), "debian-13", "debian-13-new", 1),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionDestroyBeforeCreate)),
		},
	)
}

func TestAnInterruptedPublishConverges(t *testing.T) {
	world := newWorld(t)
	// The worst moment: everything is uploaded, but the answer is lost.
	lost := func(_ context.Context, operation, _, step string) error {
		if operation == "Publish" && step == providertest.Done {
			return fmt.Errorf("upload: %w", store.ErrUnreachable)
		}
		return nil
	}
	check(t, world,
		resource.TestStep{
			PreConfig: func() { world.SetHook(lost) }, Config: debian(unpatched),
			ExpectError: says("Unable to create base \"debian-13\"", "unreachable", "at the step: uploading",
				"libvirt runs and answers"),
		},
		resource.TestStep{
			PreConfig: func() { world.SetHook(nil) }, Config: debian(unpatched),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionCreate)),
			ConfigStateChecks: []statecheck.StateCheck{value(debianAddress, attribute("sequence"),
				knownvalue.Int64Exact(1))},
		},
		resource.TestStep{
			PreConfig: func() { world.SetHook(lost) }, Config: debian(patched),
			ExpectError: says("Unable to update base \"debian-13\""),
		},
		resource.TestStep{
			PreConfig: func() { world.SetHook(nil) }, Config: debian(patched),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate)),
			ConfigStateChecks: []statecheck.StateCheck{value(debianAddress, attribute("sequence"),
				knownvalue.Int64Exact(2))},
		},
	)
}

func TestAMissingArchiveFailsThePlan(t *testing.T) {
	check(t, newWorld(t), resource.TestStep{
		Config:      archive("own", filepath.Join(t.TempDir(), "missing.tar")),
		ExpectError: says("Unable to plan base \"own\"", "missing.tar", "no such file", "reading its source"),
	})
}

func TestAnUnreachableHostRemovesNothingFromState(t *testing.T) {
	world := newWorld(t)
	unreachable := fmt.Errorf("%w: dial unix /run/libvirt/libvirt-sock: connect: connection refused",
		store.ErrUnreachable)
	check(t, world,
		resource.TestStep{Config: debian(patched)},
		resource.TestStep{
			PreConfig: func() { world.SetFailure(unreachable) }, Config: debian(patched),
			ExpectError: says("Unable to read base \"debian-13\"", "pool \"sharedos\" at qemu:///system",
				"connection refused", "virsh --connect 'qemu:///system'", "State is kept"),
		},
		resource.TestStep{
			PreConfig: func() { world.SetFailure(nil) }, Config: debian(patched),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
		},
	)
}

func TestABaseThatVMsUseIsNotDeleted(t *testing.T) {
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: debian(patched) + web("")},
		resource.TestStep{
			// The VM is removed from state without destroying it, and the base is destroyed.
			Config: `
removed {
  from = sharedos_vm.web
  lifecycle { destroy = false }
}
`,
			ExpectError: says("Unable to delete base \"debian-13\"", "in use", "These VMs use it: web"),
		},
		resource.TestStep{PreConfig: func() { must(t, world.DropVM(t.Context(), "web")) }, Config: debian(patched)},
	)
}

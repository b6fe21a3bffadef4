package provider_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
	"github.com/hashicorp/terraform-plugin-testing/terraform"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// data is a VM that may be powered off for a change, with one further disk.
func data(body string) string {
	return debian(patched) + web(`
  disks   = { data = { `+body+` } }
  refresh = { max_impact = "reboot" }`)
}

// isData compares the disk in the record and in the definition with the one that it should be.
func isData(t *testing.T, world *providertest.World, want hypervisor.DiskRecord) resource.TestCheckFunc {
	return func(*terraform.State) error {
		domain, _, err := world.VM(t.Context(), "web")
		if err != nil {
			return err
		}
		got := domain.Metadata.Disks["data"]
		want.Pool, want.Volume = got.Pool, got.Volume
		if diff := cmp.Diff(want, got); diff != "" || domain.Disks["data"].DiskDevice != want.DiskDevice {
			return fmt.Errorf("the disk is (-want +got):\n%s\nand defined as %+v", diff, domain.Disks["data"])
		}
		attached, err := world.Domains.AttachedDisks(t.Context(), "web")
		if err != nil || !slices.Equal(attached, []string{"data"}) {
			return fmt.Errorf("attached are %q, %w", attached, err)
		}
		return nil
	}
}

// Each attribute of a disk: a VM is made without it and gets it, is imported, loses it to somebody
// else, and gets it again.
func TestAttributesOfADisk(t *testing.T) {
	const powerOff, live = "reboot", "none"
	plain := hypervisor.DiskRecord{
		DiskDevice: hypervisor.DiskDevice{Format: "raw", Cache: "none", Discard: "unmap", Serial: "data"},
		Size:       1 << 30,
	}
	device := func(change func(*hypervisor.DiskDevice)) func(*hypervisor.Domain) {
		return func(d *hypervisor.Domain) {
			one := d.Disks["data"]
			change(&one.DiskDevice)
			d.Disks = map[string]hypervisor.Disk{"data": one}
		}
	}
	record := func(change func(*hypervisor.DiskRecord)) func(*hypervisor.Domain) {
		return func(d *hypervisor.Domain) {
			one := d.Metadata.Disks["data"]
			change(&one)
			d.Metadata.Disks = map[string]hypervisor.DiskRecord{"data": one}
		}
	}
	for name, test := range map[string]struct {
		value string
		known knownvalue.Check
		want  func(*hypervisor.DiskRecord)
		way   string // "" if nothing is interrupted or attached
		drift func(*hypervisor.Domain)
	}{
		"size": {
			`"2GiB"`, knownvalue.StringExact("2GiB"), func(r *hypervisor.DiskRecord) { r.Size = 2 << 30 }, live,
			record(func(r *hypervisor.DiskRecord) { r.Size = 1 << 30 }),
		},
		"cache": {
			`"writeback"`, knownvalue.StringExact("writeback"),
			func(r *hypervisor.DiskRecord) { r.Cache = "writeback" }, powerOff,
			device(func(d *hypervisor.DiskDevice) { d.Cache = "unsafe" }),
		},
		"discard": {
			`"ignore"`, knownvalue.StringExact("ignore"),
			func(r *hypervisor.DiskRecord) { r.Discard = "ignore" }, powerOff,
			device(func(d *hypervisor.DiskDevice) { d.Discard = "unmap" }),
		},
		"serial": {
			`"s-1"`, knownvalue.StringExact("s-1"), func(r *hypervisor.DiskRecord) { r.Serial = "s-1" }, powerOff,
			device(func(d *hypervisor.DiskDevice) { d.Serial = "s-2" }),
		},
		"read_only": {
			"true", knownvalue.Bool(true), func(r *hypervisor.DiskRecord) { r.ReadOnly = true }, powerOff,
			device(func(d *hypervisor.DiskDevice) { d.ReadOnly = false }),
		},
		"deletion_protection": {
			"true", knownvalue.Bool(true), func(r *hypervisor.DiskRecord) { r.Protected = true }, "",
			record(func(r *hypervisor.DiskRecord) { r.Protected = false }),
		},
		"mount_point": {
			`"/srv/data"
			file_system = "ext4"`, knownvalue.StringExact("/srv/data"),
			func(r *hypervisor.DiskRecord) { r.FileSystem, r.MountPoint = "ext4", "/srv/data" }, live,
			record(func(r *hypervisor.DiskRecord) { r.MountPoint = "/srv/other" }),
		},
	} {
		t.Run(name, func(t *testing.T) {
			world := newWorld(t)
			at := attribute("disks").AtMapKey("data").AtMapKey(name)
			size := "size = \"1GiB\"\n"
			without := data(size)
			if name == "size" {
				size = ""
			}
			with := data(size + name + " = " + test.value)
			want := plain
			test.want(&want)
			changes := []plancheck.PlanCheck{action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, at, test.known)}
			if test.way != "" {
				changes = append(changes,
					plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
						knownvalue.StringExact(test.way)))
			}
			var calls []string
			check(t, world,
				resource.TestStep{Config: without, Check: isData(t, world, plain)},
				resource.TestStep{
					PreConfig: func() { calls = world.Domains.Calls() },
					Config:    with, ConfigPlanChecks: plans(changes...),
					ConfigStateChecks: []statecheck.StateCheck{value(webAddress, at, test.known)},
					Check: resource.ComposeTestCheckFunc(isData(t, world, want), func(*terraform.State) error {
						did := world.Domains.Calls()[len(calls):]
						if started := slices.Contains(did, "Start web"); started != (test.way == powerOff) {
							return fmt.Errorf("the apply called %q", did)
						}
						return nil
					}),
				},
				resource.TestStep{
					ResourceName: webAddress, ImportState: true, ImportStateId: "web",
					ImportStateVerify: true, ImportStateVerifyIdentifierAttribute: "name",
					ImportStateVerifyIgnore: []string{"refresh", "agent.ready_seconds", "impact", "last_refresh"},
				},
				resource.TestStep{
					PreConfig: func() { world.Domains.Alter("web", test.drift) },
					Config:    with, ConfigPlanChecks: plans(changes...), Check: isData(t, world, want),
				},
				resource.TestStep{Config: data(size + name + " = " + test.value + "\ndeletion_protection = false")},
			)
		})
	}
}

// Disks come and go in a running VM, an existing volume among them; the spelling of sizes and the
// pool of the VM are no changes.
func TestDisksOfARunningVM(t *testing.T) {
	world := newWorld(t)
	path := world.Volumes.Path("mine.img")
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	with := func(disks string) string { return debian(patched) + web("disks = {"+disks+"}") }
	const logs = "\nlogs = { size = \"1GiB\" }\n"
	live := plans(
		action(webAddress, plancheck.ResourceActionUpdate),
		plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"), knownvalue.StringExact("none")),
		plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"),
			knownvalue.ListExact([]knownvalue.Check{knownvalue.StringExact(string(vm.ReasonDisksLive))})),
	)
	attached := func(want ...string) resource.TestCheckFunc {
		return func(*terraform.State) error {
			got, err := world.Domains.AttachedDisks(t.Context(), "web")
			if err != nil || !slices.Equal(got, want) {
				return fmt.Errorf("attached are %q, want %q: %w", got, want, err)
			}
			return nil
		}
	}
	noop := plans(action(webAddress, plancheck.ResourceActionNoop))
	check(t, world,
		resource.TestStep{Config: with(""), Check: attached()},
		resource.TestStep{Config: debian(patched) + web(""),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate))},
		resource.TestStep{Config: with(logs), ConfigPlanChecks: live, Check: attached("logs")},
		resource.TestStep{Config: with("\nlogs = { size = \"1024MiB\" }\n"), ConfigPlanChecks: noop},
		resource.TestStep{Config: with(logs + "mine = { volume = \"mine.img\", read_only = true }\n"),
			ConfigPlanChecks: live, Check: attached("logs", "mine")},
		resource.TestStep{
			ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
			ImportStateVerifyIdentifierAttribute: "name",
			ImportStateVerifyIgnore:              []string{"refresh", "agent.ready_seconds", "impact", "last_refresh"},
		},
		resource.TestStep{
			PreConfig: func() { world.Domains.UnplugDisk("web", "logs") },
			Config:    with(logs + "mine = { volume = \"mine.img\", read_only = true }\n"),
			Check:     attached("logs", "mine"),
		},
		resource.TestStep{Config: with(logs), ConfigPlanChecks: live, Check: attached("logs")},
		resource.TestStep{
			PreConfig: func() {
				if content, err := os.ReadFile(path); err != nil || string(content) != "mine" {
					t.Errorf("the volume that was given has %q, %v", content, err)
				}
				must(t, os.Remove(path))
			},
			Config: with(""), ConfigPlanChecks: live, Check: attached(),
		},
	)
}

func TestDisksThatAreRefused(t *testing.T) {
	world := newWorld(t)
	const first = "size = \"1GiB\"\ndeletion_protection = true"
	steps := []resource.TestStep{{Config: data(first)}}
	for _, refused := range []struct {
		config string
		says   []string
	}{
		{data("size = \"512MiB\""), []string{`its disk "data" has 1GiB and cannot shrink to 512MiB`, "Set size to 1GiB or more"}},
		{data("size = \"512MiB\"\n") + "# off", []string{"cannot shrink"}},
		{debian(patched) + web(""), []string{`disk "data" is protected`, "set its deletion_protection to false and apply"}},
		{debian(patched), []string{`Unable to destroy VM "web"`, `disks["data"].deletion_protection is true in state`}},
		{strings.Replace(data(first), `name   = "web"`, `name = "other"`, 1), []string{`Unable to replace VM "web"`}},
		{data(first + "\npool = \"other\""), []string{"another pool, volume or format"}},
		{data(first + "\nvolume = \"mine.img\""), []string{"exactly one of size, volume must be set"}},
		{data("cache = \"none\""), []string{"none of them is set"}},
		{data(first + "\nserial = \"sharedos-private\""), []string{"the serials of the private disk and of layers"}},
		{data(first + "\nserial = \"a b\""), []string{"a serial of 1 to 20 letters"}},
		{data(first + "\nmount_point = \"/srv/a\""), []string{"Set file_system, too"}},
		{data(first + "\nfile_system = \"ext4\""), []string{"Set mount_point, too"}},
		{data(first + "\nfile_system = \"ext4\"\nmount_point = \"/usr/local/data\""), []string{"/usr/local/data is in /usr, which belongs to the operating system"}},
		{data(first + "\nfile_system = \"ext4\"\nmount_point = \"/var\""), []string{"/var is a mount of the private disk"}},
		{data("size = \"64MiB\"\nfile_system = \"xfs\"\nmount_point = \"/srv/a\""), []string{"xfs needs at least 300MiB"}},
		{data("volume = \"layer-" + strings.Repeat("0", 64) + "\""), []string{"is the name of a layer"}},
		{debian(patched) + web(`disks = { data = { size = "1GiB" }, other = { size = "1GiB", serial = "data" } }`), []string{`disk "data" has the serial data, too`}},
		{debian(patched) + web(
			`disks = { a = { size = "1GiB", file_system = "ext4", mount_point = "/srv/a" }, b = { size = "1GiB", file_system = "ext4", mount_point = "/srv/a" } }`),
			[]string{`disk "a" is mounted at /srv/a, too`}},
		{debian(patched) + web(`disks = { "a.b" = { size = "1GiB" } }`), []string{"a name of 1 to 20 letters"}},
	} {
		steps = append(steps, resource.TestStep{Config: refused.config, ExpectError: says(refused.says...)})
	}
	steps = append(steps, resource.TestStep{Config: data("size = \"1GiB\"")},
		resource.TestStep{Config: debian(patched)})
	check(t, world, steps...)
}

package hypervisor_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// libvirt is asked about a definition, and nothing is left of the question.
func TestLibvirtIsAskedAboutHardware(t *testing.T) {
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	d.Interfaces = map[string]hypervisor.Interface{"lan": {Network: "no-such-network"},
		"out": {User: &hypervisor.UserNetwork{}}}
	ask := func(hardware hypervisor.Hardware) error {
		d.Give(hardware)
		return h.Accepts(t.Context(), d)
	}
	patch := func(op, path, xml string) hypervisor.Hardware {
		return hypervisor.Hardware{Patches: []hypervisor.Patch{{Op: op, Path: path, XML: xml}}}
	}
	for name, fine := range map[string]hypervisor.Hardware{
		"nothing":       {},
		"a stick":       {Devices: map[string]hypervisor.HostDevice{"stick": {USB: "ffff:ffff"}}}, // HasDevice says whether it is there
		"a sound card":  patch("add", "/domain/devices", `<sound model="ich9"/>`),
		"an argument":   patch("add", "/domain", `<qemu:commandline><qemu:arg value="-no-hpet"/></qemu:commandline>`),
		"a card's rom":  patch("replace", "/domain/devices/interface[1]/rom/@enabled", "yes"),
		"other words":   patch("add", "/domain", `<memtune><hard_limit unit="MiB">900</hard_limit></memtune>`),
		"a second port": patch("add", "/domain/devices", `<controller type="scsi" model="virtio-scsi"/>`),
	} {
		if err := ask(fine); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, wrong := range map[string]hypervisor.Hardware{
		"an unknown machine": {Machine: "pc-q35-99.0"},
		"an unknown model":   {CPU: hypervisor.CPU{Model: "No-Such-Model"}},
		"an unknown node":    {Memory: hypervisor.MemoryBacking{Nodes: "4000"}},
		"an unknown device":  {Devices: map[string]hypervisor.HostDevice{"card": {PCI: "ffff:ff:1f.7"}}},
		"an unknown element": patch("add", "/domain/devices", `<no-such-device/>`),
		"an unknown value":   patch("add", "/domain/devices", `<sound model="no-such-model"/>`),
		"no element":         patch("remove", "/domain/devices/sound", ""),
	} {
		err := ask(wrong)
		if !errors.Is(err, hypervisor.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
		if failed := (*hypervisor.PatchError)(nil); errors.As(err, &failed) != (name == "no element") {
			t.Errorf("%s is taken for a patch that cannot be applied, or not: %v", name, err)
		}
	}
	if names := strings.TrimSpace(bed.Virsh(t, "list", "--all", "--name")); names != "" {
		t.Errorf("these domains are left: %s", names)
	}
}

// A patch that somebody takes out of the definition is noticed, but for one that libvirt has written in other words.
func TestPatchesAreKeptInTheDefinition(t *testing.T) {
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	d.Give(hypervisor.Hardware{Patches: []hypervisor.Patch{
		{Op: "add", Path: "/domain/devices", XML: `<sound model="ich9"/>`},
		{Op: "add", Path: "/domain", XML: `<memtune><hard_limit unit="MiB">900</hard_limit></memtune>`},
		{Op: "replace", Path: "/domain/devices/memballoon/@freePageReporting", XML: "off"},
	}})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Define(t.Context(), d))
	lost := func() []int {
		t.Helper()
		found, _, err := h.Lookup(t.Context(), d.Name)
		must(err)
		if !slices.Equal(found.Metadata.UnreadPatches, []int{1}) {
			t.Errorf("patches %v are in other words", found.Metadata.UnreadPatches)
		}
		return found.LostPatches
	}
	if got := lost(); len(got) != 0 {
		t.Errorf("%v are lost at once", got)
	}
	edited := bed.Virsh(t, "dumpxml", "--inactive", d.Name)
	edited = strings.Replace(edited, "freePageReporting='off'", "freePageReporting='on'", 1)
	from, to := strings.Index(edited, "<sound"), strings.Index(edited, "</sound>")+len("</sound>")
	if from < 0 || to < from {
		t.Fatal(edited)
	}
	file := filepath.Join(t.TempDir(), "edited.xml")
	must(os.WriteFile(file, []byte(edited[:from]+edited[to:]), 0o600))
	bed.Virsh(t, "define", file)
	if got := lost(); !slices.Equal(got, []int{0, 2}) {
		t.Errorf("%v are lost", got)
	}
	must(h.Define(t.Context(), d))
	if got := lost(); len(got) != 0 {
		t.Errorf("%v are lost after the domain was defined again", got)
	}
}

// The shares of a running domain need a cgroup controller, and without it libvirt's refusal comes through.
func TestSharesOfARunningDomain(t *testing.T) {
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	if err := errors.Join(h.Define(t.Context(), d), h.Start(t.Context(), d.Name)); err != nil {
		t.Fatal(err)
	}
	for _, shares := range []int{200, 0} {
		err := h.SetShares(t.Context(), d.Name, shares)
		if err == nil { // the host has the controller
			want := map[int]string{200: "200", 0: "1"}[shares]
			if said := bed.Virsh(t, "schedinfo", "--live", d.Name); !strings.Contains(said, "cpu_shares     : "+want) {
				t.Errorf("it runs with\n%s", said)
			}
		} else if errors.Is(err, hypervisor.ErrUnreachable) || errors.Is(err, hypervisor.ErrNotFound) ||
			errors.Is(err, hypervisor.ErrNotRunning) {
			t.Error(err)
		}
	}
}

package hypervisor

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"
)

// patchedDomain is the definition of a plain domain with patches.
func patchedDomain(patches ...Patch) (string, error) {
	d := plainDomain()
	d.Foreign = []string{`<a:owner xmlns:a="urn:a" a:team="web">ops &amp; more</a:owner>`}
	d.Give(Hardware{Patches: patches})
	return platform{virtType: "kvm", hostVSock: true}.encode(d)
}

func TestPatchesChangeTheDefinition(t *testing.T) {
	for name, test := range map[string]struct {
		patch Patch
		has   string
	}{
		"an element is added": {
			Patch{PatchAdd, "/domain/devices",
				`<sound model="ich9"><alias name="ua-a"/></sound><panic model='pvpanic'/>`},
			`<sound model="ich9"><alias name="ua-a"></alias></sound><panic model="pvpanic"></panic></devices>`,
		},
		"an element is replaced": {
			Patch{PatchReplace, "/domain/clock", `<clock offset="localtime"/>`}, `<clock offset="localtime"></clock>`,
		},
		"one of several": {
			Patch{PatchReplace, "/domain/devices/interface[1]/rom/@enabled", "yes"}, `<rom enabled="yes">`,
		},
		"one with an attribute": {
			Patch{PatchAdd, "/domain/devices/interface[@type='bridge']",
				`<bandwidth><inbound average="1000"/></bandwidth>`},
			`<bandwidth><inbound average="1000"></inbound></bandwidth></interface>`,
		},
		"an attribute is added": {Patch{PatchAdd, "/domain/cpu/@migratable", "off"},
			`<cpu mode="host-passthrough" migratable="off">`},
		"an attribute is replaced": {Patch{PatchReplace, "/domain/clock/@offset", "a&b"}, `<clock offset="a&amp;b">`},
		"QEMU's own": {
			Patch{PatchAdd, "/domain", `<qemu:commandline><qemu:arg value="-a"/></qemu:commandline>`},
			`<commandline xmlns="http://libvirt.org/schemas/domain/qemu/1.0"><arg value="-a"></arg></commandline></domain>`,
		},
		"another namespace": {
			Patch{PatchAdd, "/domain/devices/memballoon", `<x:a xmlns:x="urn:x"/>`},
			`<a xmlns="urn:x"></a></memballoon>`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := patchedDomain(test.patch)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(text, test.has) {
				t.Errorf("it has not %s:\n%s", test.has, text)
			}
			if !strings.Contains(text, `a:team="web">ops &amp; more</a:owner></metadata>`) {
				t.Errorf("the metadata is another one:\n%s", text)
			}
			var defined libvirtxml.Domain
			if err := defined.Unmarshal(text); err != nil {
				t.Fatal(err)
			}
		})
	}
	text, err := patchedDomain(Patch{PatchRemove, "/domain/features/apic", ""},
		Patch{PatchRemove, "/domain/devices/memballoon/@freePageReporting", ""})
	if err != nil || strings.Contains(text, "<apic") || strings.Contains(text, `freePageReporting="`) {
		t.Errorf("%v:\n%s", err, text)
	}
}

func TestPatchesThatCannotBe(t *testing.T) {
	for name, test := range map[string]struct {
		patch Patch
		says  string
	}{
		"no element":             {Patch{PatchRemove, "/domain/devices/sound", ""}, "matches 0 elements"},
		"two elements":           {Patch{PatchAdd, "/domain/devices/emulator[1]/a", "<a/>"}, "matches 0 elements"},
		"several":                {Patch{PatchAdd, "/domain/features/acpi[2]", "<a/>"}, "matches 0 elements"},
		"no attribute":           {Patch{PatchReplace, "/domain/cpu/@a", "b"}, "has no attribute a"},
		"an attribute to remove": {Patch{PatchRemove, "/domain/cpu/@a", ""}, "has no attribute a"},
		"an attribute twice":     {Patch{PatchAdd, "/domain/cpu/@mode", "b"}, "has an attribute mode already"},
		"an element twice":       {Patch{PatchAdd, "/domain", "<cpu/>"}, "has an element cpu already"},
		"another element":        {Patch{PatchReplace, "/domain/clock", "<a/>"}, "not replaced by an element a"},
		"the whole":              {Patch{PatchReplace, "/domain", "<domain/>"}, "cannot be replaced or removed"},
		"the kernel": {Patch{PatchReplace, "/domain/os/kernel", "<kernel>/a</kernel>"},
			"/domain/os is what the VM stands on"},
		"the name": {Patch{PatchReplace, "/domain/name", "<name>a</name>"},
			"/domain/name is what the VM stands on"},
		"the metadata": {Patch{PatchAdd, "/domain/metadata", "<a/>"},
			"/domain/metadata is what the VM stands on"},
		"new metadata": {Patch{PatchAdd, "/domain", "<metadata/>"},
			"/domain/metadata is what the VM stands on"},
		"the private disk": {Patch{PatchRemove, "/domain/devices/disk[1]", ""},
			"/domain/devices/disk is what the VM stands on"},
		"part of a layer": {Patch{PatchAdd, "/domain/devices/disk[2]/@device", "cdrom"},
			"/domain/devices/disk is what the VM stands on"},
		"a disk": {Patch{PatchAdd, "/domain/devices", "<disk/>"},
			"/domain/devices/disk is what the VM stands on"},
		"the vsock": {Patch{PatchRemove, "/domain/devices/vsock", ""},
			"/domain/devices/vsock is what the VM stands on"},
		"all devices": {Patch{PatchRemove, "/domain/devices", ""}, "change what is in it"},
		"a port":      {Patch{PatchRemove, "/domain/devices/controller[3]", ""}, "can only add to it"},
		"the memory": {Patch{PatchReplace, "/domain/memory", `<memory unit="KiB">1048576</memory>`},
			"set those instead"},
		"the number of processors": {Patch{PatchReplace, "/domain/vcpu", "<vcpu>3</vcpu>"}, "set those instead"},
		"the model":                {Patch{PatchReplace, "/domain/cpu/@mode", "host-model"}, "set those instead"},
		"graphics":                 {Patch{PatchAdd, "/domain/devices", `<graphics type="vnc"/>`}, "set those instead"},
		"the model of a card": {Patch{PatchReplace, "/domain/devices/interface/model/@type", "rtl8139"},
			"set those instead"},
		"an interface": {Patch{PatchRemove, "/domain/devices/interface", ""}, "set those instead"},
	} {
		_, err := patchedDomain(test.patch)
		if failed := (*PatchError)(nil); !errors.As(err, &failed) || failed.Index != 0 ||
			!strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := patchedDomain(Patch{PatchReplace, "/domain/@type", "kvm"}); err == nil ||
		!strings.Contains(err.Error(), "its type") {
		t.Errorf("the type of the domain is patched: %v", err)
	}
	_, err := patchedDomain(Patch{PatchRemove, "/domain/clock", ""}, Patch{PatchRemove, "/domain/clock", ""})
	if failed := (*PatchError)(nil); !errors.As(err, &failed) || failed.Index != 1 {
		t.Errorf("%v", err)
	}
}

func TestPatchesThatAreNone(t *testing.T) {
	deep := strings.Repeat("<a>", maxPatchDepth+1) + strings.Repeat("</a>", maxPatchDepth+1)
	for name, patch := range map[string]Patch{
		"another operation":      {"move", "/domain/clock", "<clock/>"},
		"no path":                {PatchRemove, "", ""},
		"a relative path":        {PatchRemove, "domain/clock", ""},
		"another root":           {PatchRemove, "/network/name", ""},
		"an axis":                {PatchRemove, "/domain//clock", ""},
		"a function":             {PatchRemove, "/domain/clock[last()]", ""},
		"the zeroth":             {PatchRemove, "/domain/clock[0]", ""},
		"a quote that is open":   {PatchRemove, "/domain/clock[@a='b]", ""},
		"an attribute inside":    {PatchRemove, "/domain/@a/clock", ""},
		"an attribute of none":   {PatchRemove, "/@a", ""},
		"XML that is not closed": {PatchAdd, "/domain", "<a>"},
		"no XML":                 {PatchAdd, "/domain", ""},
		"text":                   {PatchAdd, "/domain", "a"},
		"a document type":        {PatchAdd, "/domain", `<!DOCTYPE a [<!ENTITY b "c">]><a/>`},
		"two for one":            {PatchReplace, "/domain/clock", "<clock/><clock/>"},
		"XML to remove":          {PatchRemove, "/domain/clock", "<clock/>"},
		"depth":                  {PatchAdd, "/domain", deep},
		"size":                   {PatchAdd, "/domain", "<a>" + strings.Repeat("b", maxPatch) + "</a>"},
	} {
		if err := patch.Check(); err == nil {
			t.Errorf("%s is a patch", name)
		}
	}
	for _, path := range []string{"/domain", "/domain/a[@b='/c']/d", `/domain/a[@b="'"][2]`,
		"/domain/qemu:commandline/qemu:arg[1]/@value"} {
		if err := (Patch{PatchAdd, path, "<a/>"}).Check(); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Somebody takes out what a patch has put in, or puts back what it has taken out.
func TestPatchesThatAreLost(t *testing.T) {
	patches := []Patch{
		{PatchAdd, "/domain/devices", `<sound model="ich9"/>`},
		{PatchReplace, "/domain/clock", `<clock offset="localtime"/>`},
		{PatchRemove, "/domain/features/apic", ""},
		{PatchAdd, "/domain/cpu/@migratable", "off"},
		{PatchRemove, "/domain/devices/memballoon/@freePageReporting", ""},
	}
	text, err := patchedDomain(patches...)
	if err != nil {
		t.Fatal(err)
	}
	lost := func(change func(*libvirtxml.Domain), unread ...int) []int {
		t.Helper()
		var defined libvirtxml.Domain
		if err := defined.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		change(&defined)
		all, err := lostPatches(&defined, patches, unread)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if got := lost(func(*libvirtxml.Domain) {}); len(got) != 0 {
		t.Errorf("%v are lost at once", got)
	}
	spoil := func(d *libvirtxml.Domain) {
		d.Devices.Sounds, d.Clock.Offset, d.CPU.Migratable = nil, "utc", "on"
		d.Features.APIC, d.Devices.MemBalloon.FreePageReporting = &libvirtxml.DomainFeatureAPIC{}, "on"
	}
	if got := lost(spoil); !slices.Equal(got, []int{0, 1, 2, 3, 4}) {
		t.Errorf("%v are lost", got)
	}
	if got := lost(spoil, 1, 3); !slices.Equal(got, []int{0, 2, 4}) {
		t.Errorf("%v are lost of those that can be told", got)
	}
}

func TestListsOfProcessorsAreWrittenAsLibvirtDoes(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "1,0": "0-1", "0-3,8": "0-3,8", "3,3,2-4": "2-4", "4095": "4095", "10-12,14,13": "10-14",
		"": "", "a": "", "3-1": "", "1-": "", "-1": "", "4096": "", "0,": "", "0-99999999": "",
	} {
		if got, err := Processors(text); got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v", text, got, err)
		}
	}
}

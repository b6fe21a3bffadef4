package hypervisor_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func open(t *testing.T, bed *testbed.Testbed) *hypervisor.Libvirt {
	t.Helper()
	client, err := libvirtconn.Open(t.Context(), bed.URI(), machine.Local{})
	if err != nil {
		t.Fatal(err)
	}
	h, err := hypervisor.New(t.Context(), client, machine.Local{}, bed.StateDir())
	if err != nil {
		t.Fatal(errors.Join(err, client.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(h.Close(), client.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func TestLibvirtKeepsTheContract(t *testing.T) {
	h := open(t, testbed.New(t))
	hypervisortest.Contract(t, bridge(t, "a"), bridge(t, "b"), func(*testing.T) hypervisor.Hypervisor { return h })
}

// bridge makes a bridge of its own for a test, as a host has them for VMs.
func bridge(t *testing.T, suffix string) string {
	t.Helper()
	name := fmt.Sprintf("so-%d%s", os.Getpid(), suffix)
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "add", name, "type",
		"bridge").CombinedOutput(); err != nil {
		t.Fatalf("make a bridge: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "ip", "link", "del",
			name).CombinedOutput(); err != nil {
			t.Errorf("remove the bridge: %v: %s", err, out)
		}
	})
	return name
}

// An interface moves between a bridge and a network of libvirt on another bridge, and what runs is
// read as it is defined. libvirt that ends meanwhile loses nothing. Interfaces that people add stay.
func TestInterfacesOfARunningDomain(t *testing.T) {
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	one, two := bridge(t, "c"), bridge(t, "d")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "network.xml")
	must(os.WriteFile(file,
		[]byte("<network><name>other</name><forward mode='bridge'/><bridge name='"+two+"'/></network>"), 0o600))
	bed.Virsh(t, "net-define", file)
	bed.Virsh(t, "net-start", "other")
	d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: one}, "n": {Network: "other"}}
	must(h.Define(t.Context(), d))
	must(h.Start(t.Context(), d.Name))
	mustBe := func(want map[string]hypervisor.Interface) {
		t.Helper()
		runs, err := h.AttachedInterfaces(t.Context(), d.Name)
		must(err)
		found, _, err := h.Lookup(t.Context(), d.Name)
		must(err)
		if diff := cmp.Diff(want, runs) + cmp.Diff(want, found.Interfaces); diff != "" {
			t.Fatalf("it runs with other interfaces, or is defined with them (-want +got):\n%s", diff)
		}
	}
	mustBe(d.Interfaces)
	must(h.UpdateInterface(t.Context(), d.Name, "a", hypervisor.Interface{Network: "other"}))
	must(h.UpdateInterface(t.Context(), d.Name, "n", hypervisor.Interface{Network: "other", Down: true}))
	mustBe(map[string]hypervisor.Interface{"a": {Network: "other"}, "n": {Network: "other", Down: true}})
	must(h.AttachInterface(t.Context(), d.Name, "b", hypervisor.Interface{Bridge: one}, hypervisor.LayerPorts))
	// One that cannot be moved stays where it is, with its link up.
	if err := h.UpdateInterface(t.Context(), d.Name, "b", hypervisor.Interface{Bridge: "absent-bridge"}); err == nil {
		t.Error("it was moved to a bridge that is not there")
	}
	mustBe(map[string]hypervisor.Interface{
		"a": {Network: "other"}, "b": {Bridge: one}, "n": {Network: "other", Down: true},
	})
	bed.Virsh(t, "attach-interface", "--live", "--config", "--model", "virtio", "--mac",
		"52:54:00:00:00:99", d.Name, "bridge", one)

	must(bed.KillLibvirt(t.Context()))
	must(bed.StartLibvirt(t.Context()))
	must(h.AttachInterface(t.Context(), d.Name, "c", hypervisor.Interface{Network: "other"}, hypervisor.LayerPorts))
	must(h.UpdateInterface(t.Context(), d.Name, "a", hypervisor.Interface{Bridge: one}))
	want := map[string]hypervisor.Interface{"a": {Bridge: one}, "b": {Bridge: one}, "c": {Network: "other"},
		"n": {Network: "other", Down: true}}
	mustBe(want)
	if ports, err := filepath.Glob("/sys/class/net/" + one + "/brif/*"); err != nil ||
		len(ports) != 3 { // a, b and the one that was added
		t.Errorf("on the bridge are %q, %v", ports, err)
	}
	found, _, err := h.Lookup(t.Context(), d.Name)
	must(err)
	if len(found.ForeignInterfaces) != 1 || !strings.Contains(found.ForeignInterfaces[0], "52:54:00:00:00:99") {
		t.Errorf("the interfaces that were added are %q", found.ForeignInterfaces)
	}
	found.Layers = append(found.Layers,
		hypervisor.LayerDevice{ID: tree.Sum([]byte("more")), Path: found.Layers[0].Path})
	must(h.Define(t.Context(), found))
	mustBe(want)
	must(h.PowerOff(t.Context(), d.Name))
	must(h.Start(t.Context(), d.Name))
	mustBe(want)
	if text := bed.Virsh(t, "domiflist", d.Name); !strings.Contains(text, "52:54:00:00:00:99") {
		t.Errorf("it started without the interface that was added:\n%s", text)
	}
}

// A QEMU that crashes or is killed is told from a guest that powered off, and the domain starts again.
func TestADomainWhoseQEMUIsKilledIsKnownToHaveBroken(t *testing.T) {
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	expect := func(want bool) {
		t.Helper()
		if broke, err := h.Broke(t.Context(), d.Name); err != nil || broke != want {
			t.Errorf("it broke: %v, %v; want %v", broke, err, want)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Define(t.Context(), d))
	expect(false)
	must(h.Start(t.Context(), d.Name))
	expect(false)
	kill := fmt.Sprintf(`kill -KILL "$(cat /run/libvirt/qemu/%s.pid)"`, d.Name)
	if out, err := bed.Inside(t.Context(), "sh", "-c", kill).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, state, err := h.Lookup(ctx, d.Name)
		must(err)
		if state == hypervisor.Off {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	expect(true)
	must(h.Start(t.Context(), d.Name))
	expect(false)
	must(h.PowerOff(t.Context(), d.Name))
	expect(false)
}

// What people add with virsh is read, and is there after the domain was defined again.
func TestWhatPeopleAddWithVirshIsKept(t *testing.T) {
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(h.Define(t.Context(), d))
	// As with virsh edit, with a namespace that is declared around the elements.
	edited := strings.Replace(bed.Virsh(t, "dumpxml", "--inactive", d.Name), "<metadata>",
		`<metadata xmlns:a="urn:example:a"><a:owner>ops &amp; more</a:owner>`, 1)
	file := filepath.Join(t.TempDir(), "edited.xml")
	must(os.WriteFile(file, []byte(edited), 0o600))
	bed.Virsh(t, "define", file)
	bed.Virsh(t, "desc", "--config", "--title", d.Name, "Web <1>")
	bed.Virsh(t, "desc", "--config", d.Name, "two\nlines")
	bed.Virsh(t, "metadata", "--config", d.Name, "urn:example:b", "--key", "b", "--set", "<ticket>17</ticket>")
	bed.Virsh(t, "autostart", d.Name)
	added := map[string]string{"vdd": filepath.Join(filepath.Dir(d.PrivateDisk), "added.img"),
		"sdb": filepath.Join(filepath.Dir(d.PrivateDisk), "sata.img")}
	for target, path := range added {
		must(os.WriteFile(path, make([]byte, 1<<20), 0o600))
		bed.Virsh(t, "attach-disk", "--config", "--driver", "qemu", "--subdriver", "raw", d.Name, path, target)
	}
	channel := filepath.Join(t.TempDir(), "channel.xml")
	must(os.WriteFile(channel,
		[]byte("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"), 0o600))
	bed.Virsh(t, "attach-device", "--config", d.Name, channel)
	sound := filepath.Join(t.TempDir(), "sound.xml")
	must(os.WriteFile(sound, []byte("<sound model='ich9'/>"), 0o600))
	bed.Virsh(t, "attach-device", "--config", d.Name, sound)
	found, _, err := h.Lookup(t.Context(), d.Name)
	must(err)
	if found.Title != "Web <1>" || found.Description != "two\nlines" || len(found.Foreign) != 2 ||
		found.Metadata.PrivateVolume != d.Metadata.PrivateVolume {
		t.Errorf("it is read as %+v", found)
	}
	if len(found.ForeignDisks) != 2 {
		t.Errorf("the disks that were added are %q", found.ForeignDisks)
	}
	found.VCPUs = 2
	layer := found.Layers[0]
	for i := range 3 { // whose targets are not those of the disks that were added
		found.Layers = append(found.Layers, hypervisor.LayerDevice{ID: tree.Sum([]byte{byte(i)}), Path: layer.Path})
	}
	must(h.Define(t.Context(), found))
	must(h.AttachDisk(t.Context(), d.Name, "data", hypervisor.Disk{Path: layer.Path, DiskDevice: hypervisor.DiskDevice{
		Format: "raw", Cache: "none", Discard: "unmap", Serial: "data", ReadOnly: true}}))
	list := func() string { return bed.Virsh(t, "domblklist", d.Name) }
	for target, path := range added {
		if text := list(); !regexp.MustCompile(`(?m)^ *` + target + ` +` + path + `$`).MatchString(text) {
			t.Errorf("disk %s, which was added, is not in\n%s", target, text)
		}
	}
	must(h.Start(t.Context(), d.Name))
	text := bed.Virsh(t, "dumpxml", d.Name)
	if strings.Count(text, "name='org.qemu.guest_agent.0'") != 1 || strings.Count(text, "<sound model='ich9'") != 1 {
		t.Errorf("it runs without the channel and the sound card that were added, or with several:\n%s", text)
	}
	must(h.DetachDisk(t.Context(), d.Name, "none"))
	if text := list(); !strings.Contains(text, added["vdd"]) || !strings.Contains(text, added["sdb"]) {
		t.Errorf("the VM runs without the disks that were added:\n%s", text)
	}
	must(h.PowerOff(t.Context(), d.Name))
	must(h.SetMetadata(t.Context(), d.Name, found.Metadata))
	if text := bed.Virsh(t, "metadata", d.Name, "urn:example:a"); !strings.Contains(text,
		"<owner>ops &amp; more</owner>") {
		t.Errorf("metadata of a is %s", text)
	}
	if text := bed.Virsh(t, "metadata", d.Name, "urn:example:b"); !strings.Contains(text, ">17</ticket>") {
		t.Errorf("metadata of b is %s", text)
	}
	if text := bed.Virsh(t, "desc", "--title", d.Name); strings.TrimSpace(text) != "Web <1>" {
		t.Errorf("the title is %q", text)
	}
	if text := bed.Virsh(t, "desc", d.Name); strings.TrimSpace(text) != "two\nlines" {
		t.Errorf("the description is %q", text)
	}
	if on, err := h.Autostarted(t.Context()); err != nil || !on[d.UUID] {
		t.Errorf("autostart: %v, %v", on, err)
	}
}

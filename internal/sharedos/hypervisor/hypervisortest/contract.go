package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Contract checks what every Hypervisor promises. open returns one whose guests are deaf: the
// kernel that the contract boots halts at once, so the guests answer to nothing. It may return the
// same one for every part. bridge and other are bridges of its host, which do not filter VLANs.
func Contract(t *testing.T, bridge, other string, open func(t *testing.T) hypervisor.Hypervisor) {
	parts := []struct {
		name string
		run  func(*testing.T, context.Context, hypervisor.Hypervisor)
	}{
		{"a domain is looked up as it was defined", roundTrip},
		{"a domain is redefined in place", redefine},
		{"a domain of the name under another UUID is foreign", otherUUID},
		{"a domain can be defined before its private disk exists", first},
		{"an impossible domain is refused with everything that is wrong", impossible},
		{"an unknown domain is not found by any call", unknown},
		{"start and power off can be repeated", startStop},
		{"a domain whose files are missing does not start", missingFiles},
		{"a running domain is not undefined", undefineRunning},
		{"layers are attached to and detached from a domain that is off", layersOff},
		{"a layer is attached to a running domain once", layersRunning},
		{"a running domain has room for so many more layers", layersRoom},
		{"boot files are listed as a domain is defined and as it runs", bootFiles},
		{"further disks come, grow and go, running or not", disks},
		{"an impossible further disk is refused", wrongDisks},
		{"the private disk of a running domain grows and never shrinks", resize},
		{"an interface of each model starts, with its MTU and its link",
			func(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
				models(t, ctx, h, bridge)
			}},
		{"the link of an interface is set, running or not",
			func(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
				links(t, ctx, h, bridge)
			}},
		{"an interface comes, moves and goes, running or not",
			func(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
				plugs(t, ctx, h, bridge, other)
			}},
		{"an impossible interface is refused", func(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
			wrongInterfaces(t, ctx, h, bridge)
		}},
		{"processors and memory have maxima", maxima},
		{"a running domain gets processors, and a deaf guest releases nothing", resources},
		{"hardware is read back as it was defined", hardware},
		{"a domain starts with hardware, and gets other for its next start", startsWith},
		{"impossible hardware is refused", wrongHardware},
		{"metadata is replaced in one step, running or not", metadata},
		{"a title and a description are changed in one step, running or not", descriptions},
		{"a domain starts with the host as long as that is asked for", autostart},
		{"a guest that does not answer is waited for no longer than the context", deaf},
		{"domains are listed with their states", inventory},
		{"limits of the host are known, and what it does not have is not found", host},
		{"a cancelled context ends every call", cancelled},
	}
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			part.run(t, ctx, open(t))
		})
	}
}

// Domain returns a domain with a name and UUID of its own, and creates its files. Its kernel halts
// at once. When the test ends, the domain is removed from h.
func Domain(t *testing.T, h hypervisor.Hypervisor) hypervisor.Domain {
	t.Helper()
	dir := t.TempDir()
	// QEMU runs as another user, and the parent of this directory is private to the test's user.
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	file := func(name string, size int64) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, halted(size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	sum := tree.Sum([]byte(t.Name() + dir))
	x := sum.Hex()
	d := hypervisor.Domain{
		Name:        "contract-" + x[:12],
		UUID:        fmt.Sprintf("%s-%s-4%s-8%s-%s", x[:8], x[8:12], x[13:16], x[17:20], x[20:32]),
		VCPUs:       1,
		Memory:      64 << 20,
		Kernel:      file("kernel", 64<<10),
		Initramfs:   file("initramfs", 4096),
		KernelArgs:  []string{"sharedos.test=1", "panic=-1"},
		PrivateDisk: file("private", 1<<20),
		Layers: []hypervisor.LayerDevice{
			{ID: tree.Sum([]byte(x + "base")), Path: file("base", 1<<20)},
			{ID: tree.Sum([]byte(x + "delta")), Path: file("delta", 1<<20)},
		},
		BootConfig: []byte(
			`{"hostname":"web-1","operators":["a+b/c=="],"authorized_keys":["ssh-ed25519 AAAA it's <me> & \"you\", 100%"]}`),
		ConsoleLog: filepath.Join(dir, "console.log"),
		Metadata: hypervisor.Metadata{
			Stack: release.Stack{
				Base:   tree.Sum([]byte("a release")),
				Layers: []release.Layer{{ID: tree.Sum([]byte(x + "base")), DataSize: 8192, Size: 1 << 20}},
				Kernel: "6.12.1-cloud-amd64",
			},
			Pool:          "sharedos <&> ]]> \"quoted\" é",
			PrivateVolume: "vm-web-1",
			Initramfs:     tree.Sum([]byte("an initramfs")),
			DiskSize:      1 << 20,
			Pinned:        []tree.Digest{tree.Sum([]byte("a release")), tree.Sum([]byte("another release"))},
			Detaches:      2,
			Fallback:      &release.Stack{ID: tree.Sum([]byte("a stack")), Base: tree.Sum([]byte("another release"))},
			LeftWith: &release.Stack{Base: tree.Sum([]byte("a release")),
				Components: []tree.Digest{tree.Sum([]byte("a component"))}},
		},
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := h.PowerOff(ctx, d.Name); err != nil && !gone(err) {
			t.Errorf("clean up: %v", err)
		}
		if err := h.Undefine(ctx, d.Name); err != nil && !gone(err) {
			t.Errorf("clean up: %v", err)
		}
	})
	return d
}

// halted is a file that QEMU boots as a Linux kernel (Documentation/arch/x86/boot.rst). It halts at once.
func halted(size int64) []byte {
	data := make([]byte, size)
	data[0x1f1] = 1                                    // sectors of setup code
	copy(data[0x1fe:], []byte{0x55, 0xaa})             // boot flag
	copy(data[0x200:], []byte{0xeb, 0x6e})             // the entry point: jump to 0x270
	copy(data[0x202:], "HdrS")                         // magic
	copy(data[0x206:], []byte{0x0c, 0x02})             // protocol 2.12
	copy(data[0x22c:], []byte{0xff, 0xff, 0xff, 0x37}) // highest address of the initramfs
	copy(data[0x270:], []byte{0xfa, 0xf4, 0xeb, 0xfd}) // cli; hlt; jump back to hlt
	return data
}

func gone(err error) bool {
	return errors.Is(err, hypervisor.ErrNotFound) || errors.Is(err, hypervisor.ErrForeign)
}

// setByDefine leaves out of a comparison what Define finds out.
var setByDefine = cmpopts.IgnoreFields(hypervisor.Domain{}, "Emulated")

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBe(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// mustBeDefined looks up a domain and compares it with the one that it should be.
func mustBeDefined(t *testing.T, ctx context.Context, h hypervisor.Hypervisor, want hypervisor.Domain,
	state hypervisor.State) {
	t.Helper()
	got, is, err := h.Lookup(ctx, want.Name)
	must(t, err)
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), setByDefine); diff != "" {
		t.Fatalf("the domain is defined differently (-want +got):\n%s", diff)
	}
	if is != state {
		t.Fatalf("the domain's state is %d, want %d", is, state)
	}
}

func roundTrip(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	for name, change := range map[string]func(*hypervisor.Domain){
		"as it is": func(*hypervisor.Domain) {},
		"bare": func(d *hypervisor.Domain) {
			d.KernelArgs, d.Layers, d.BootConfig, d.Metadata = nil, nil, nil, hypervisor.Metadata{}
		},
		"networks": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{
				"ssh":    {User: &hypervisor.UserNetwork{Forwards: map[uint16]uint16{20022: 22, 20080: 80}}},
				"out":    {User: &hypervisor.UserNetwork{}, MAC: "52:54:00:01:02:03"},
				"lan":    {Bridge: "br0"},
				"lan-2":  {Bridge: "br0", MAC: "02:00:00:00:00:01"},
				"shared": {Network: "default"},
			}
		},
		"network cards": func(d *hypervisor.Domain) {
			d.VCPUs = 2
			d.Interfaces = map[string]hypervisor.Interface{
				"ssh": {User: &hypervisor.UserNetwork{Forwards: map[uint16]uint16{20022: 22}}, Model: "e1000e",
					MAC: "52:54:00:01:02:03"},
				"jumbo": {User: &hypervisor.UserNetwork{}, MTU: 9000},
				"lan":   {Bridge: "br0", MTU: 1280, Down: true, Queues: 2, VLAN: 42},
				"other": {Network: "default", Model: "e1000e", Down: true},
			}
		},
		"further disks": func(d *hypervisor.Domain) {
			d.Disks = map[string]hypervisor.Disk{
				"data": {Path: d.PrivateDisk + "-data", DiskDevice: hypervisor.DiskDevice{Format: "qcow2", Cache: "writeback", Discard: "ignore", Serial: "s-1"}},
				"Logs": {Path: "/dev/vg/logs", DiskDevice: hypervisor.DiskDevice{Format: "raw", Cache: "none", Discard: "unmap", Serial: "Logs", ReadOnly: true}},
			}
			d.Metadata.Disks = map[string]hypervisor.DiskRecord{
				"data": {DiskDevice: d.Disks["data"].DiskDevice, Pool: "other", Volume: "disk", Size: 1 << 30, Protected: true, FileSystem: "ext4", MountPoint: "/srv/d"},
				"Logs": {DiskDevice: d.Disks["Logs"].DiskDevice, Pool: "vg", Volume: "logs", Given: true},
			}
		},
		"large": func(d *hypervisor.Domain) { d.VCPUs, d.Memory = 8, 3<<30 },
		"what people have added": func(d *hypervisor.Domain) {
			d.Title, d.Description = ` Web <&> "one" é 😀 `, " two\n\tlines & more \n"
			d.Foreign = []string{
				`<a:owner xmlns:a="urn:example:a" since="1 &amp; 2">ops<a:note/></a:owner>`,
				`<b xmlns="urn:example:b">&lt;text&gt;</b>`,
			}
		},
		"a boot configuration at its limit": func(d *hypervisor.Domain) {
			d.BootConfig = []byte(`"` + strings.Repeat("k", hypervisor.MaxBootConfig-2) + `"`)
		},
		"as many layers as possible": func(d *hypervisor.Domain) {
			for i := len(d.Layers); i < hypervisor.MaxLayers; i++ {
				d.Layers = append(d.Layers,
					hypervisor.LayerDevice{ID: tree.Sum([]byte{byte(i)}), Path: d.Layers[0].Path})
			}
		},
	} {
		changed := d
		change(&changed)
		if err := h.Define(ctx, changed); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		mustBeDefined(t, ctx, h, changed, hypervisor.Off)
		all, err := h.List(ctx)
		must(t, err)
		listed := 0
		for _, one := range all {
			if one.Name == d.Name {
				listed++
				if diff := cmp.Diff(changed, one, cmpopts.EquateEmpty(), setByDefine); diff != "" {
					t.Fatalf("%s: listed differently (-want +got):\n%s", name, diff)
				}
			}
		}
		if listed != 1 {
			t.Fatalf("%s: listed %d times", name, listed)
		}
	}
}

func redefine(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	must(t, h.Start(ctx, d.Name))
	d.VCPUs = 2
	d.Layers = d.Layers[:1]
	d.Metadata.AgentKey = "key"
	must(t, h.Define(ctx, d))
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
	must(t, h.PowerOff(ctx, d.Name))
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
}

func otherUUID(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	other := d
	other.UUID = Domain(t, h).UUID
	mustBe(t, h.Define(ctx, other), hypervisor.ErrForeign)
	other = d
	other.Name = "contract-other"
	if err := h.Define(ctx, other); err == nil {
		t.Fatal("a second domain with the same UUID was accepted")
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	found, state, err := h.LookupUUID(ctx, d.UUID)
	must(t, err)
	if found.Name != d.Name || found.UUID != d.UUID || state != hypervisor.Off {
		t.Errorf("found by its UUID is %q with UUID %s", found.Name, found.UUID)
	}
	_, _, err = h.LookupUUID(ctx, Domain(t, h).UUID)
	mustBe(t, err, hypervisor.ErrNotFound)
	if _, _, err := h.LookupUUID(ctx, d.Name); err == nil || errors.Is(err, hypervisor.ErrNotFound) {
		t.Errorf("a name was taken for a UUID: %v", err)
	}
}

// first defines a domain before its private disk exists.
func first(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	path := d.PrivateDisk
	d.PrivateDisk = ""
	if err := h.Define(ctx, d); err == nil {
		t.Fatal("a domain without a private disk, which nobody creates, was defined")
	}
	d.Metadata.Creating = &hypervisor.Creating{Operator: "key", Process: "m.1.2",
		Began: time.Unix(1_800_000_000, 0).UTC()}
	must(t, h.Define(ctx, d))
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
	d.PrivateDisk = path
	must(t, h.Define(ctx, d))
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
}

func impossible(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	for name, spoil := range map[string]func(*hypervisor.Domain){
		"name with a slash":     func(d *hypervisor.Domain) { d.Name = "a/b" },
		"no name":               func(d *hypervisor.Domain) { d.Name = "" },
		"UUID in capitals":      func(d *hypervisor.Domain) { d.UUID = strings.ToUpper("a" + d.UUID[1:]) },
		"no vcpus":              func(d *hypervisor.Domain) { d.VCPUs = 0 },
		"memory not in MiB":     func(d *hypervisor.Domain) { d.Memory++ },
		"fewer vcpus at most":   func(d *hypervisor.Domain) { d.VCPUs, d.MaxVCPUs = 3, 2 },
		"less memory at most":   func(d *hypervisor.Domain) { d.MaxMemory = d.Memory - 1<<20 },
		"most memory not MiB":   func(d *hypervisor.Domain) { d.MaxMemory = d.Memory + 1 },
		"relative kernel":       func(d *hypervisor.Domain) { d.Kernel = "vmlinuz" },
		"no initramfs":          func(d *hypervisor.Domain) { d.Initramfs = "" },
		"argument with a space": func(d *hypervisor.Domain) { d.KernelArgs = []string{"a b"} },
		"a layer twice":         func(d *hypervisor.Domain) { d.Layers[1] = d.Layers[0] },
		"a layer without an id": func(d *hypervisor.Domain) { d.Layers[0].ID = tree.Digest{} },
		"boot configuration":    func(d *hypervisor.Domain) { d.BootConfig = []byte("{") },
		"a title of two lines":  func(d *hypervisor.Domain) { d.Title = "a\nb" },
		"interface of no kind":  func(d *hypervisor.Domain) { d.Interfaces = map[string]hypervisor.Interface{"a": {}} },
		"interface of two kinds": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", Network: "n"}}
		},
		"multicast MAC": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", MAC: "01:00:00:00:00:00"}}
		},
		"a MAC of zeros": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", MAC: "00:00:00:00:00:00"}}
		},
		"a MAC twice": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b"},
				"b": {Bridge: "b", MAC: hypervisor.MAC(d.UUID, "a")}}
		},
		"an unknown model": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", Model: "ne2k_pci"}}
		},
		"a small MTU": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", MTU: hypervisor.MinMTU - 1}}
		},
		"a large MTU": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", MTU: hypervisor.MaxMTU + 1}}
		},
		"an MTU that the guest does not learn": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {Bridge: "b", MTU: 9000, Model: "e1000e"}}
		},
		"a link that libvirt does not know": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a": {User: &hypervisor.UserNetwork{}, Down: true}}
		},
		"interface name": func(d *hypervisor.Domain) {
			d.Interfaces = map[string]hypervisor.Interface{"a,b": {User: &hypervisor.UserNetwork{}}}
		},
	} {
		d := Domain(t, h)
		spoil(&d)
		if err := h.Define(ctx, d); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	d := Domain(t, h)
	d.VCPUs, d.Memory = -1, 5
	err := h.Define(ctx, d)
	if err == nil || !strings.Contains(err.Error(), "vcpus") || !strings.Contains(err.Error(), "memory") {
		t.Errorf("two things are wrong, and the error is %v", err)
	}
	_, _, err = h.Lookup(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
}

func unknown(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	_, _, err := h.Lookup(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
	mustBe(t, h.Start(ctx, d.Name), hypervisor.ErrNotFound)
	mustBe(t, h.Shutdown(ctx, d.Name), hypervisor.ErrNotFound)
	mustBe(t, h.PowerOff(ctx, d.Name), hypervisor.ErrNotFound)
	mustBe(t, h.Undefine(ctx, d.Name), hypervisor.ErrNotFound)
	mustBe(t, h.AttachLayer(ctx, d.Name, d.Layers[0]), hypervisor.ErrNotFound)
	mustBe(t, h.DetachLayer(ctx, d.Name, d.Layers[0].ID), hypervisor.ErrNotFound)
	mustBe(t, h.AttachDisk(ctx, d.Name, "data", diskOf(t, d, "data")), hypervisor.ErrNotFound)
	mustBe(t, h.DetachDisk(ctx, d.Name, "data"), hypervisor.ErrNotFound)
	_, err = h.AttachedDisks(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
	mustBe(t, h.SetMetadata(ctx, d.Name, d.Metadata), hypervisor.ErrNotFound)
	mustBe(t, h.SetTitle(ctx, d.Name, "t"), hypervisor.ErrNotFound)
	mustBe(t, h.SetDescription(ctx, d.Name, "d"), hypervisor.ErrNotFound)
	mustBe(t, h.SetAutostart(ctx, d.Name, true), hypervisor.ErrNotFound)
	lan := hypervisor.Interface{Bridge: "br0"}
	mustBe(t, h.AttachInterface(ctx, d.Name, "lan", lan, hypervisor.LayerPorts), hypervisor.ErrNotFound)
	mustBe(t, h.DetachInterface(ctx, d.Name, "lan"), hypervisor.ErrNotFound)
	mustBe(t, h.UpdateInterface(ctx, d.Name, "lan", lan), hypervisor.ErrNotFound)
	_, err = h.AttachedInterfaces(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
	mustBe(t, h.SetVCPUs(ctx, d.Name, 1), hypervisor.ErrNotFound)
	mustBe(t, h.SetMemory(ctx, d.Name, 64<<20), hypervisor.ErrNotFound)
	_, err = h.VCPUsNow(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
	_, err = h.Broke(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
	_, err = h.Dialer(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
	_, err = h.AttachedLayers(ctx, d.Name)
	mustBe(t, err, hypervisor.ErrNotFound)
}

func resize(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	mustBe(t, h.ResizeDisk(ctx, d.Name, "", 4<<20), hypervisor.ErrNotFound)
	must(t, h.Define(ctx, d))
	mustBe(t, h.ResizeDisk(ctx, d.Name, "", 4<<20), hypervisor.ErrNotRunning)
	must(t, h.Start(ctx, d.Name))
	for _, size := range []int64{4 << 20, 4 << 20, 2 << 20} {
		must(t, h.ResizeDisk(ctx, d.Name, "", size))
		info, err := os.Stat(d.PrivateDisk)
		must(t, err)
		if info.Size() != 4<<20 {
			t.Errorf("asked for %d bytes, it has %d", size, info.Size())
		}
	}
	if err := h.ResizeDisk(ctx, d.Name, "", 0); err == nil {
		t.Error("a disk of no bytes was accepted")
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Running)
}

func metadata(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	for _, state := range []hypervisor.State{hypervisor.Off, hypervisor.Running} {
		d.Metadata.AgentKey += "k/+="
		d.Metadata.DiskSize, d.Metadata.Fallback = int64(state)<<20, nil
		d.Metadata.Stack.Components = append(d.Metadata.Stack.Components, tree.Sum([]byte{byte(state)}))
		must(t, h.SetMetadata(ctx, d.Name, d.Metadata))
		mustBeDefined(t, ctx, h, d, state)
		must(t, h.Start(ctx, d.Name))
	}
	must(t, h.PowerOff(ctx, d.Name))
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
}

func inventory(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	off, runs := Domain(t, h), Domain(t, h)
	must(t, h.Define(ctx, off))
	must(t, h.Define(ctx, runs))
	must(t, h.Start(ctx, runs.Name))
	all, err := h.Inventory(ctx)
	must(t, err)
	found := map[string]hypervisor.State{}
	for _, one := range all {
		found[one.UUID] = one.State
		if one.Damaged != nil {
			t.Errorf("domain %q: %v", one.Name, one.Damaged)
		}
		if want := map[string]hypervisor.Domain{off.UUID: off, runs.UUID: runs}[one.UUID]; want.Name != one.Name &&
			want.Name != "" {
			t.Errorf("domain %q is listed as %q", want.Name, one.Name)
		}
	}
	if found[off.UUID] != hypervisor.Off || found[runs.UUID] != hypervisor.Running {
		t.Errorf("the domains are listed as %v", found)
	}
}

func host(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	limits, err := h.Limits(ctx)
	must(t, err)
	if limits.VCPUs < 1 || limits.VCPUs > hypervisor.MaxVCPUs || limits.Processors < 1 || limits.Memory < 1<<30 {
		t.Errorf("a domain can have %+v", limits)
	}
	facts, err := h.Facts(ctx)
	must(t, err)
	version := regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)
	if !version.MatchString(facts.Libvirt) || !version.MatchString(facts.QEMU) || facts.Limits != limits {
		t.Errorf("the host is %+v", facts)
	}
	if facts.VSock != hypervisor.VSockVhost && facts.VSock != hypervisor.VSockVhostUser {
		t.Errorf("the host of running domains has the vsock %q", facts.VSock)
	}
	if found, err := h.IsBridge(ctx, "br-none"); err != nil || found {
		t.Errorf("a bridge that does not exist: %v, %v", found, err)
	}
	if found, err := h.IsBridge(ctx, "lo"); err != nil || found {
		t.Errorf("the loopback as a bridge: %v, %v", found, err)
	}
	if _, err := h.IsBridge(ctx, "../lo"); err == nil {
		t.Error("a path as a bridge")
	}
	mustBe(t, h.CheckVLAN(ctx, "br-none"), hypervisor.ErrNoVLAN)
	if _, err := h.NetworkActive(ctx, "none-of-this-name"); err == nil {
		t.Error("a network that does not exist is there")
	}
}

func cancelled(t *testing.T, ctx context.Context, h hypervisor.Hypervisor) {
	d := Domain(t, h)
	must(t, h.Define(ctx, d))
	over, cancel := context.WithCancel(ctx)
	cancel()
	errs := map[string]error{
		"Define":      h.Define(over, d),
		"Start":       h.Start(over, d.Name),
		"Shutdown":    h.Shutdown(over, d.Name),
		"PowerOff":    h.PowerOff(over, d.Name),
		"Undefine":    h.Undefine(over, d.Name),
		"AttachLayer": h.AttachLayer(over, d.Name, d.Layers[0]),
		"DetachLayer": h.DetachLayer(over, d.Name, d.Layers[0].ID),
		"ResizeDisk":  h.ResizeDisk(over, d.Name, "", 4<<20),
		"AttachDisk":  h.AttachDisk(over, d.Name, "data", diskOf(t, d, "data")),
		"DetachDisk":  h.DetachDisk(over, d.Name, "data"),
		"Attach": h.AttachInterface(over, d.Name, "lan",
			hypervisor.Interface{Bridge: "br0"}, hypervisor.LayerPorts),
		"Detach":      h.DetachInterface(over, d.Name, "lan"),
		"Change":      h.UpdateInterface(over, d.Name, "lan", hypervisor.Interface{Bridge: "br0"}),
		"CheckVLAN":   h.CheckVLAN(over, "br0"),
		"SetMetadata": h.SetMetadata(over, d.Name, hypervisor.Metadata{}),
		"SetTitle":    h.SetTitle(over, d.Name, "t"),
		"Description": h.SetDescription(over, d.Name, "d"),
		"Autostart":   h.SetAutostart(over, d.Name, true),
	}
	_, _, errs["Lookup"] = h.Lookup(over, d.Name)
	_, errs["List"] = h.List(over)
	_, errs["Inventory"] = h.Inventory(over)
	_, errs["Facts"] = h.Facts(over)
	_, errs["BootFiles"] = h.BootFiles(over)
	_, errs["AttachedDisks"] = h.AttachedDisks(over, d.Name)
	_, errs["RoomForDisks"] = h.RoomForDisks(over, d.Name)
	_, errs["AttachedInterfaces"] = h.AttachedInterfaces(over, d.Name)
	_, errs["Autostarted"] = h.Autostarted(over)
	_, errs["StartsAlone"] = h.StartsAlone(over)
	_, errs["Dialer"] = h.Dialer(over, d.Name)
	_, errs["VSock"] = h.VSock(over, d.Name)
	for method, err := range errs {
		if !errors.Is(err, context.Canceled) || errors.Is(err, hypervisor.ErrNotFound) {
			t.Errorf("%s: got error %v, want %v", method, err, context.Canceled)
		}
	}
	mustBeDefined(t, ctx, h, d, hypervisor.Off)
}

package provider

import (
	"context"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmSamples has a value for every configurable attribute of sharedos_vm. It differs from the value of plainVM.
var vmSamples = map[string]struct {
	at    path.Path
	value any
}{
	"name":     {path.Root("name"), "other"},
	"hostname": {path.Root("hostname"), "other.example"},
	"ssh_authorized_keys": {path.Root("ssh_authorized_keys"),
		[]string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8eL7Xown0333MZLobOFmWbF+pv5+cDS15+BuJS+7Nf me"}},
	"base":                      {path.Root("base"), tree.Digest{9}.String()},
	"components":                {path.Root("components"), []string{tree.Digest{8}.String()}},
	"on_demand":                 {path.Root("on_demand"), []string{tree.Digest{8}.String()}},
	"detach_on_demand":          {path.Root("detach_on_demand"), true},
	"prefer":                    {path.Root("prefer"), map[string]string{"/etc/a": "tool"}},
	"vcpus":                     {path.Root("vcpus"), int64(3)},
	"max_vcpus":                 {path.Root("max_vcpus"), int64(3)},
	"memory":                    {path.Root("memory"), "1GiB"},
	"max_memory":                {path.Root("max_memory"), "2GiB"},
	"disk.size":                 {path.Root("disk").AtName("size"), "8GiB"},
	"disks.size":                {diskPath.AtName("size"), "2GiB"},
	"disks.pool":                {diskPath.AtName("pool"), "other"},
	"disks.volume":              {diskPath.AtName("volume"), "mine.img"},
	"disks.format":              {diskPath.AtName("format"), "qcow2"},
	"disks.cache":               {diskPath.AtName("cache"), "writeback"},
	"disks.discard":             {diskPath.AtName("discard"), "ignore"},
	"disks.serial":              {diskPath.AtName("serial"), "s-1"},
	"disks.read_only":           {diskPath.AtName("read_only"), true},
	"disks.deletion_protection": {diskPath.AtName("deletion_protection"), true},
	"disks.file_system":         {diskPath.AtName("file_system"), "xfs"},
	"disks.mount_point":         {diskPath.AtName("mount_point"), "/srv/data"},
	"interfaces.user.forwards": {
		path.Root("interfaces").AtMapKey("lan").AtName("user").AtName("forwards").AtMapKey("8080"), int64(80),
	},
	"interfaces.bridge":             {path.Root("interfaces").AtMapKey("lan").AtName("bridge"), "br1"},
	"interfaces.network":            {path.Root("interfaces").AtMapKey("lan").AtName("network"), "other"},
	"interfaces.mac":                {path.Root("interfaces").AtMapKey("lan").AtName("mac"), "52:54:00:00:00:01"},
	"interfaces.model":              {path.Root("interfaces").AtMapKey("lan").AtName("model"), "e1000e"},
	"interfaces.mtu":                {path.Root("interfaces").AtMapKey("lan").AtName("mtu"), int64(9000)},
	"interfaces.queues":             {path.Root("interfaces").AtMapKey("lan").AtName("queues"), int64(2)},
	"interfaces.vlan":               {path.Root("interfaces").AtMapKey("lan").AtName("vlan"), int64(7)},
	"interfaces.link":               {path.Root("interfaces").AtMapKey("lan").AtName("link"), "down"},
	"machine":                       {path.Root("machine"), "pc-q35-9.2"},
	"cpu.model":                     {path.Root("cpu").AtName("model"), "host-model"},
	"cpu.sockets":                   {path.Root("cpu").AtName("sockets"), int64(1)},
	"cpu.cores":                     {path.Root("cpu").AtName("cores"), int64(1)},
	"cpu.threads":                   {path.Root("cpu").AtName("threads"), int64(1)},
	"cpu.pinning":                   {path.Root("cpu").AtName("pinning"), map[string]string{"0": "0-1"}},
	"cpu.shares":                    {path.Root("cpu").AtName("shares"), int64(200)},
	"memory_backing.huge_page_size": {path.Root("memory_backing").AtName("huge_page_size"), "2MiB"},
	"memory_backing.numa_nodes":     {path.Root("memory_backing").AtName("numa_nodes"), "0-1"},
	"memory_backing.numa_mode":      {path.Root("memory_backing").AtName("numa_mode"), "preferred"},
	"tpm":                           {path.Root("tpm"), "tpm-crb"},
	"graphics.type":                 {path.Root("graphics").AtName("type"), "spice"},
	"graphics.listen":               {path.Root("graphics").AtName("listen"), "::1"},
	"graphics.port":                 {path.Root("graphics").AtName("port"), int64(5999)},
	"graphics.socket":               {path.Root("graphics").AtName("socket"), "/run/web.sock"},
	"graphics.video":                {path.Root("graphics").AtName("video"), "virtio"},
	"watchdog":                      {path.Root("watchdog"), "pause"},
	"rng.source":                    {path.Root("rng").AtName("source"), "/dev/hwrng"},
	"rng.bytes_per_second":          {path.Root("rng").AtName("bytes_per_second"), int64(1024)},
	"host_directories.path":         {path.Root("host_directories").AtMapKey("data").AtName("path"), "/srv/data"},
	"host_directories.read_only":    {path.Root("host_directories").AtMapKey("data").AtName("read_only"), true},
	"host_devices.pci":              {path.Root("host_devices").AtMapKey("card").AtName("pci"), "0000:01:00.0"},
	"host_devices.usb":              {path.Root("host_devices").AtMapKey("card").AtName("usb"), "1d6b:0002"},
	"xml_patch.op":                  {path.Root("xml_patch").AtListIndex(0).AtName("op"), "remove"},
	"xml_patch.path":                {path.Root("xml_patch").AtListIndex(0).AtName("path"), "/domain/devices/rng"},
	"xml_patch.xml":                 {path.Root("xml_patch").AtListIndex(0).AtName("xml"), "<a/>"},
	"running":                       {path.Root("running"), false},
	"ready.units":                   {path.Root("ready").AtName("units"), []string{"a.service"}},
	"ready.health_checks.unit":      {readyCheckPath.AtName("unit"), "a.service"},
	"ready.health_checks.http":      {readyCheckPath.AtName("http"), "http://127.0.0.1/"},
	"ready.health_checks.tcp":       {readyCheckPath.AtName("tcp"), "127.0.0.1:1"},
	"ready.health_checks.command":   {readyCheckPath.AtName("command"), []string{"/bin/true"}},
	"ready.health_checks.timeout":   {readyCheckPath.AtName("timeout"), "7s"},
	"ready.address":                 {path.Root("ready").AtName("address"), true},
	"ready.timeout":                 {path.Root("ready").AtName("timeout"), "7s"},
	"autostart":                     {path.Root("autostart"), true},
	"deletion_protection":           {path.Root("deletion_protection"), true},
	"title":                         {path.Root("title"), "Web"},
	"description":                   {path.Root("description"), "two\nlines"},
	"refresh.strategy":              {path.Root("refresh").AtName("strategy"), "kexec"},
	"refresh.max_impact":            {path.Root("refresh").AtName("max_impact"), "kexec"},
	"refresh.settle":                {path.Root("refresh").AtName("settle"), "7s"},
	"refresh.restart_timeout":       {path.Root("refresh").AtName("restart_timeout"), "7s"},
	"refresh.keep_files":            {path.Root("refresh").AtName("keep_files"), []string{"/etc/a"}},
	"refresh.purge":                 {path.Root("refresh").AtName("purge"), true},
	"refresh.require_checks":        {path.Root("refresh").AtName("require_checks"), true},
	"refresh.by":                    {path.Root("refresh").AtName("by"), "rollout"},
	"refresh.policy":                {path.Root("refresh").AtName("policy"), "report"},
	"refresh.units.policy": {path.Root("refresh").AtName("units").AtMapKey("a.service").AtName("policy"),
		"report"},
	"refresh.units.paths": {path.Root("refresh").AtName("units").AtMapKey("a.service").AtName("paths"),
		[]string{"/usr/a"}},
	"refresh.health_checks.unit":    {healthCheckPath.AtName("unit"), "a.service"},
	"refresh.health_checks.http":    {healthCheckPath.AtName("http"), "http://127.0.0.1/"},
	"refresh.health_checks.tcp":     {healthCheckPath.AtName("tcp"), "127.0.0.1:1"},
	"refresh.health_checks.command": {healthCheckPath.AtName("command"), []string{"/bin/true"}},
	"refresh.health_checks.timeout": {healthCheckPath.AtName("timeout"), "7s"},
	"files.content":                 {filePath.AtName("content"), "hello"},
	"files.content_base64":          {filePath.AtName("content_base64"), "/w=="},
	"files.content_wo":              {filePath.AtName("content_wo"), "secret"},
	"files.content_wo_version":      {filePath.AtName("content_wo_version"), int64(7)},
	"files.mode":                    {filePath.AtName("mode"), "0600"},
	"files.owner":                   {filePath.AtName("owner"), "www-data"},
	"files.group":                   {filePath.AtName("group"), "adm"},
	"files.restart":                 {filePath.AtName("restart"), []string{"a.service"}},
	"files.reload":                  {filePath.AtName("reload"), []string{"a.service"}},
	"units.content":                 {unitPath.AtName("content"), "[Service]\n"},
	"units.drop_ins":                {unitPath.AtName("drop_ins"), map[string]string{"a.conf": "[Service]\n"}},
	"units.enabled":                 {unitPath.AtName("enabled"), true},
	"units.started":                 {unitPath.AtName("started"), true},
	"users.uid":                     {userPath.AtName("uid"), int64(1234)},
	"users.home":                    {userPath.AtName("home"), "/srv/alice"},
	"users.shell":                   {userPath.AtName("shell"), "/bin/sh"},
	"users.groups":                  {userPath.AtName("groups"), []string{"adm"}},
	"users.ssh_authorized_keys": {userPath.AtName("ssh_authorized_keys"),
		[]string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8eL7Xown0333MZLobOFmWbF+pv5+cDS15+BuJS+7Nf me"}},
	"networks.dhcp4":         {networkPath.AtName("dhcp4"), true},
	"networks.dhcp6":         {networkPath.AtName("dhcp6"), true},
	"networks.accept_ra":     {networkPath.AtName("accept_ra"), false},
	"networks.addresses":     {networkPath.AtName("addresses"), []string{"192.0.2.10/24"}},
	"networks.gateways":      {networkPath.AtName("gateways"), []string{"192.0.2.1"}},
	"networks.metric":        {networkPath.AtName("metric"), int64(7)},
	"networks.dns":           {networkPath.AtName("dns"), []string{"192.0.2.3"}},
	"networks.search":        {networkPath.AtName("search"), []string{"example.org"}},
	"networks.mtu":           {networkPath.AtName("mtu"), int64(1400)},
	"networks.routes.to":     {routePath.AtName("to"), "10.0.0.0/8"},
	"networks.routes.via":    {routePath.AtName("via"), "192.0.2.1"},
	"networks.routes.metric": {routePath.AtName("metric"), int64(7)},
	"swap":                   {path.Root("swap"), "64MiB"},
	"kernel_arguments":       {path.Root("kernel_arguments"), []string{"nosmt"}},
	"users.sudo":             {userPath.AtName("sudo"), true},
	"sysctl":                 {path.Root("sysctl"), map[string]string{"vm.swappiness": "10"}},
	"time_zone":              {path.Root("time_zone"), "Europe/Berlin"},
	"locale":                 {path.Root("locale"), "C.UTF-8"},
	"timeouts.create":        {path.Root("timeouts").AtName("create"), "1h"},
	"timeouts.update":        {path.Root("timeouts").AtName("update"), "1h"},
	"timeouts.delete":        {path.Root("timeouts").AtName("delete"), "1h"},
}

var diskPath = path.Root("disks").AtMapKey("data")

var readyCheckPath = path.Root("ready").AtName("health_checks").AtMapKey("a")
var (
	filePath = path.Root("files").AtMapKey("/etc/motd")
	unitPath = path.Root("units").AtMapKey("a.service")
	userPath = path.Root("users").AtMapKey("alice")

	networkPath = path.Root("networks").AtMapKey("lan")
	routePath   = networkPath.AtName("routes").AtListIndex(0)
)

var healthCheckPath = path.Root("refresh").AtName("health_checks").AtMapKey("a")

// plainVM is a running VM with the default of every attribute that has one.
func plainVM() *vm.VM {
	return &vm.VM{
		State: hypervisor.Running,
		Spec: vm.Spec{
			Name: "web", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Hostname: "web", Base: tree.Digest{1},
			VCPUs: 1, Memory: 512 << 20, DiskSize: 4 << 30, Running: true,
		},
	}
}

// newVMPlan is the state of a VM after an import: only what can be read from the VM itself.
func newVMPlan(t *testing.T, found *vm.VM) testPlan[vmModel] {
	t.Helper()
	plan := newPlan[vmModel](t, &vmResource{})
	model := plan.model()
	if diags := model.observe(t.Context(), found); diags.HasError() {
		t.Fatal(diags)
	}
	plan.setAll(model)
	return plan
}

func vmSpecOf(t *testing.T, plan testPlan[vmModel]) vm.Spec {
	t.Helper()
	spec, diags := plan.model().spec(t.Context())
	if diags.HasError() {
		t.Fatal(diags)
	}
	return spec
}

// This test fails for a new attribute that is missing in toSpec, fromVM or compare of its block.
func TestEveryAttributeOfAVMIsHandledByItsBlock(t *testing.T) {
	plain := newVMPlan(t, plainVM())
	eachLeaf("", plain.attributes(), func(name string, attribute schema.Attribute) {
		if !attribute.IsOptional() && !attribute.IsRequired() {
			return
		}
		t.Run(name, func(t *testing.T) {
			sample, ok := vmSamples[name]
			if !ok {
				t.Fatal("vmSamples has no value for it")
			}
			root := strings.Split(name, ".")[0]
			plain := newVMPlan(t, plainVM())
			if name == "refresh.health_checks.timeout" {
				plain.set(healthCheckPath.AtName("unit"), "a.service") // there is no timeout without a check
			}
			plan := plain
			plan.set(sample.at, sample.value)

			if attribute.IsWriteOnly() { // it is in the configuration alone, and in no state
				spec := vmSpecOf(t, plan)
				if diags := plan.model().secrets(t.Context(), &spec); diags.HasError() ||
					string(spec.Secrets["/etc/motd"]) != "secret" {
					t.Errorf("the secrets are %q, %v", spec.Secrets["/etc/motd"], diags)
				}
				return
			}
			if text(t, vmSpecOf(t, plan)) == text(t, vmSpecOf(t, plain)) &&
				root != "timeouts" { // these bound what the provider does
				t.Error("the specification is the same with another value: see toSpec")
			}
			if plan.model().changeFrom(plain.model()) == (vmChange{}) {
				t.Error("another value is no change: see compare")
			}
			unknown := newVMPlan(t, plainVM())
			unknown.set(path.Root(root), unknownOf(t, plain.attributes()[root]))
			if unknown.model().changeFrom(plain.model()) == (vmChange{}) {
				t.Error("an unknown value is no change: see compare")
			}
			if known, err := unknown.model().known(t.Context()); (known || err != nil) && root != "timeouts" {
				t.Errorf("an unknown value is known: %t, %v", known, err)
			}
			if root == "refresh" || root == "ready" || root == "timeouts" || root == "detach_on_demand" {
				return // only the configuration has these
			}
			found := &vm.VM{Spec: vmSpecOf(t, plan), State: hypervisor.Running}
			if !found.Spec.Running {
				found.State = hypervisor.Off
			}
			read := newVMPlan(t, found)
			if got, want := read.at(sample.at), plan.at(sample.at); got != want {
				t.Errorf("%s is read back as %s: see fromVM", want, got)
			}
		})
	})
	for name := range vmSamples {
		t.Run("sample "+name, func(t *testing.T) {
			found := false
			eachLeaf("", plain.attributes(), func(leaf string, _ schema.Attribute) { found = found || leaf == name })
			if !found {
				t.Error("there is no such attribute")
			}
		})
	}
}

// The agent and the refresh report everything that they can report.
func TestEveryComputedAttributeOfAVMIsFilledIn(t *testing.T) {
	found := plainVM()
	stack := release.Stack{
		ID: tree.Digest{9}, Base: tree.Digest{1}, Components: []tree.Digest{{2}},
		Layers: []release.Layer{{ID: tree.Digest{3}, Size: 4096}}, Kernel: "6.12",
	}
	found.Answered, found.Stack, found.ReadySeconds, found.AwaitsPowerCycle = true, stack, 1.5, true
	found.Agent = &agentapi.StatusResponse{AgentVersion: "1", AgentDigest: "sha256:1", AgentRefused: "sha256:2: no",
		Kernel: "6.11", Pending: []string{"kernel"},
		Remaining: []string{"dbus.service 1 /usr/lib/x"}, Unreadable: []string{"layer"}}
	found.Surplus = []vm.SurplusLayer{{ID: tree.Digest{4}, InUseBy: []string{"a.service"}}}
	found.Faults = []vm.Fault{{Object: "private disk", Problem: "it is gone", Mended: true}}
	found.Spec.Attached, found.ConsoleLog = []string{"tool"}, "/var/lib/sharedos/console-web.log"
	found.Drift = map[string]string{"/etc/motd": "it is gone"}
	found.Spec.Interfaces = map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
	found.Addresses = map[string][]netip.Addr{"lan": {netip.MustParseAddr("10.0.0.2"),
		netip.MustParseAddr("2001:db8::2")}}
	plan := newVMPlan(t, found)
	model := plan.model()
	impact := &agentapi.Impact{
		Level: agentapi.Level_RESTART, Reasons: []string{"why"}, Left: []string{"b.service"}, Sessions: []string{"s"},
		Unaffected: []string{"c.service"},
		Starts:     []*agentapi.UnitStart{{Unit: "d.service", WantedBy: "multi-user.target"}},
		Remaining:  []string{"r"}, Pending: []string{"p"},
		Units: []*agentapi.UnitImpact{{Unit: "a.service", Level: agentapi.Level_RESTART, Reason: "maps",
			Paths: []string{"/usr/a"}, Packages: []string{"a"}}},
	}
	diags := model.fromImpact(t.Context(), impact)
	diags.Append(model.fromReport(t.Context(), &agentapi.Report{
		From: &agentapi.Stack{Base: "sha256:1"}, To: &agentapi.Stack{Base: "sha256:2"}, Committed: true, Error: "none",
		Impact: impact, EtcCarried: 1, Purged: 3,
		Restarts: []*agentapi.UnitRestart{{Unit: "a.service", Level: agentapi.Level_RESTART,
			InterruptionUs: 1500, Error: "late"}},
		Pinned: []string{"d"}, Conflicts: []string{"e"}, Remaining: []string{"f"}, Left: []string{"g"},
		Unchecked: []string{"h"}, Pending: []string{"i"}, Starts: impact.GetStarts(),
		Timings: []*agentapi.Timing{{Step: "swap", Micros: 250}},
	}, 4096)...)
	if diags.HasError() {
		t.Fatal(diags)
	}
	plan.setAll(model)
	for name := range vmNames().computed {
		value, _, err := tftypes.WalkAttributePath(plan.Raw, tftypes.NewAttributePath().WithAttributeName(name))
		if err != nil {
			t.Fatal(err)
		}
		err = tftypes.Walk(value.(tftypes.Value), func(at *tftypes.AttributePath, value tftypes.Value) (bool, error) {
			if empty(t, value) {
				t.Errorf("%s %s is not filled in: it is %s", name, at, value)
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// empty reports whether a value is null, unknown or the zero value.
func empty(t *testing.T, value tftypes.Value) bool {
	t.Helper()
	if value.IsNull() || !value.IsKnown() {
		return true
	}
	switch {
	case value.Type().Is(tftypes.List{}):
		var elements []tftypes.Value
		return value.As(&elements) != nil || len(elements) == 0
	case value.Type().Is(tftypes.Map{}):
		var elements map[string]tftypes.Value
		return value.As(&elements) != nil || len(elements) == 0
	case value.Type().Is(tftypes.String):
		var text string
		return value.As(&text) != nil || text == ""
	case value.Type().Is(tftypes.Number):
		var number big.Float
		return value.As(&number) != nil || number.Sign() == 0
	case value.Type().Is(tftypes.Bool):
		var yes bool
		return value.As(&yes) != nil || !yes
	default:
		return false
	}
}

func TestAnObjectThatIsNotConfiguredHasTheDefaultsOfItsAttributes(t *testing.T) {
	value, diags := nestedDefaults(refreshAttribute().Attributes).value(context.Background())
	if diags.HasError() {
		t.Fatal(diags)
	}
	for name, want := range map[string]attr.Value{
		"strategy": types.StringValue("live"), "max_impact": types.StringValue("restart"),
		"settle":          types.StringValue("5s"),
		"restart_timeout": types.StringNull(), "policy": types.StringValue("restart"),
	} {
		if got := value.Attributes()[name]; !got.Equal(want) {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	for _, name := range []string{"units", "health_checks", "keep_files"} {
		if got := value.Attributes()[name]; !got.IsNull() {
			t.Errorf("%s is %s, want null", name, got)
		}
	}
	if want := refreshAttribute().GetType(); !value.Type(context.Background()).Equal(want) {
		t.Errorf("the type is %s, want %s", value.Type(context.Background()), want)
	}
	eachLeaf("refresh", refreshAttribute().Attributes, func(name string, attribute schema.Attribute) {
		if _, text := attribute.(schema.StringAttribute); attribute.IsComputed() && !text {
			t.Errorf("%s has a default of another type than nestedDefaults knows", name)
		}
	})
}

func TestUnitsThatAReleaseEnablesAreDescribed(t *testing.T) {
	report := &agentapi.Report{Starts: []*agentapi.UnitStart{
		{Unit: "a.service", WantedBy: "multi-user.target"}, {Unit: "b.service", WantedBy: "x.target", Skipped: "x.target is not active"},
		{Unit: "c.service", WantedBy: "multi-user.target", Error: "boom"},
	}}
	want := []string{"a.service, wanted by multi-user.target",
		"b.service, wanted by x.target: not started: x.target is not active",
		"c.service, wanted by multi-user.target: it failed: boom"}
	if got := startTexts(report.GetStarts()); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if got := failedStarts(report); !slices.Equal(got, want[2:]) || len(report.GetStarts()) != 3 {
		t.Errorf("%q", got)
	}
}

// What is not as the stack says is named in every plan, with what to do.
func TestAVMThatIsNotAsItsStackSaysIsNamed(t *testing.T) {
	if diags := warnings("web", plainVM()); len(diags) != 0 {
		t.Errorf("%v", diags)
	}
	found := plainVM()
	found.Agent = &agentapi.StatusResponse{Remaining: []string{"dbus.service 1 /usr/lib/x"},
		Unreadable: []string{"layer 12: its disk is gone"}}
	diags := warnings("web", found)
	if len(diags) != 2 || diags.HasError() {
		t.Fatalf("%v", diags)
	}
	for i, wants := range [][]string{{"cannot read", "layer 12: its disk is gone", "power the VM off and start it"},
		{"old code", "dbus.service 1 /usr/lib/x", "soft_reboot"}} {
		for _, want := range wants {
			if text := diags[i].Summary() + diags[i].Detail(); !strings.Contains(text, want) {
				t.Errorf("%q does not say %q", text, want)
			}
		}
	}
}

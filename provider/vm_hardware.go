package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmHardware is the hardware of a VM beside the number of processors, memory, disks and interfaces.
// An attribute that is not set is what every VM has. vm_hardware_schema.go has its schema.
type vmHardware struct {
	Machine         types.String `tfsdk:"machine"`
	CPU             types.Object `tfsdk:"cpu"`
	MemoryBacking   types.Object `tfsdk:"memory_backing"`
	TPM             types.String `tfsdk:"tpm"`
	Graphics        types.Object `tfsdk:"graphics"`
	Watchdog        types.String `tfsdk:"watchdog"`
	RNG             types.Object `tfsdk:"rng"`
	HostDirectories types.Map    `tfsdk:"host_directories"`
	HostDevices     types.Map    `tfsdk:"host_devices"`
	XMLPatch        types.List   `tfsdk:"xml_patch"`
	ConsoleLog      types.String `tfsdk:"console_log"`
}

var (
	_ vmBlock               = (*vmHardware)(nil)
	_ vmBlockWithValidation = (*vmHardware)(nil)
)

type cpuModel struct {
	Model   *string           `tfsdk:"model"`
	Sockets *int64            `tfsdk:"sockets"`
	Cores   *int64            `tfsdk:"cores"`
	Threads *int64            `tfsdk:"threads"`
	Pinning map[string]string `tfsdk:"pinning"`
	Shares  *int64            `tfsdk:"shares"`
}

type memoryBackingModel struct {
	HugePageSize sizeValue `tfsdk:"huge_page_size"`
	NUMANodes    *string   `tfsdk:"numa_nodes"`
	NUMAMode     *string   `tfsdk:"numa_mode"`
}

type graphicsModel struct {
	Type   *string `tfsdk:"type"`
	Listen *string `tfsdk:"listen"`
	Port   *int64  `tfsdk:"port"`
	Socket *string `tfsdk:"socket"`
	Video  *string `tfsdk:"video"`
}

type rngModel struct {
	Source         *string `tfsdk:"source"`
	BytesPerSecond *int64  `tfsdk:"bytes_per_second"`
}

type hostDirectoryModel struct {
	Path     *string `tfsdk:"path"`
	ReadOnly *bool   `tfsdk:"read_only"`
}

type hostDeviceModel struct {
	PCI *string `tfsdk:"pci"`
	USB *string `tfsdk:"usb"`
}

type xmlPatchModel struct {
	Op   *string `tfsdk:"op"`
	Path *string `tfsdk:"path"`
	XML  *string `tfsdk:"xml"`
}

// readInto reads an attribute that is known into a model; false if it is null.
func readInto(ctx context.Context, value attr.Value, into any, diags *diag.Diagnostics) bool {
	if unset(value) {
		return false
	}
	switch value := value.(type) {
	case types.Object:
		diags.Append(value.As(ctx, into, basetypes.ObjectAsOptions{})...)
	case types.Map:
		diags.Append(value.ElementsAs(ctx, into, false)...)
	case types.List:
		diags.Append(value.ElementsAs(ctx, into, false)...)
	}
	return true
}

// hardware reads the attributes, which must be known throughout.
func (b *vmHardware) hardware(ctx context.Context) (h hypervisor.Hardware, diags diag.Diagnostics) {
	if model := (cpuModel{}); readInto(ctx, b.CPU, &model, &diags) {
		h.CPU = hypervisor.CPU{
			Model: valueOr(model.Model, ""), Sockets: int(valueOr(model.Sockets, 0)),
			Cores:   int(valueOr(model.Cores, 0)),
			Threads: int(valueOr(model.Threads, 0)), Shares: int(valueOr(model.Shares, 0)),
		}
		for vcpu, pins := range model.Pinning {
			number, err := strconv.Atoi(vcpu)
			canonical, err2 := hypervisor.Processors(pins)
			if err := errors.Join(err, err2); err != nil {
				diags.Append(failedAt(path.Root("cpu").AtName("pinning"),
					failure{do: "read", object: "the pinning of processor " + vcpu, err: err})...)
				continue
			}
			if h.CPU.Pins == nil {
				h.CPU.Pins = map[int]string{}
			}
			h.CPU.Pins[number] = canonical
		}
	}
	if model := (memoryBackingModel{}); readInto(ctx, b.MemoryBacking, &model, &diags) {
		if !unset(model.HugePageSize) {
			h.Memory.HugePages = model.HugePageSize.Bytes()
		}
		h.Memory.Mode = valueOr(model.NUMAMode, "")
		if nodes := valueOr(model.NUMANodes, ""); nodes != "" {
			canonical, err := hypervisor.Processors(nodes)
			if err != nil {
				diags.Append(failedAt(path.Root("memory_backing").AtName("numa_nodes"),
					failure{do: "read", object: "the NUMA nodes", err: err})...)
			}
			h.Memory.Nodes = canonical
		}
	}
	h.Machine, h.TPM, h.Watchdog = b.Machine.ValueString(), b.TPM.ValueString(), b.Watchdog.ValueString()
	if model := (graphicsModel{}); readInto(ctx, b.Graphics, &model, &diags) {
		h.Graphics = &hypervisor.Graphics{
			Type: valueOr(model.Type, ""), Listen: valueOr(model.Listen, ""), Socket: valueOr(model.Socket, ""),
			Port:  int(valueOr(model.Port, 0)),
			Video: valueOr(model.Video, ""),
		}
	}
	if model := (rngModel{}); readInto(ctx, b.RNG, &model, &diags) {
		h.Random = hypervisor.Random{Source: valueOr(model.Source, ""),
			BytesPerSecond: int(valueOr(model.BytesPerSecond, 0))}
	}
	var directories map[string]hostDirectoryModel
	readInto(ctx, b.HostDirectories, &directories, &diags)
	for tag, model := range directories {
		if h.Directories == nil {
			h.Directories = map[string]hypervisor.Directory{}
		}
		h.Directories[tag] = hypervisor.Directory{Path: valueOr(model.Path, ""),
			ReadOnly: valueOr(model.ReadOnly, false)}
	}
	var devices map[string]hostDeviceModel
	readInto(ctx, b.HostDevices, &devices, &diags)
	for name, model := range devices {
		if h.Devices == nil {
			h.Devices = map[string]hypervisor.HostDevice{}
		}
		h.Devices[name] = hypervisor.HostDevice{PCI: valueOr(model.PCI, ""), USB: valueOr(model.USB, "")}
	}
	var patches []xmlPatchModel
	readInto(ctx, b.XMLPatch, &patches, &diags)
	for _, model := range patches {
		h.Patches = append(h.Patches,
			hypervisor.Patch{Op: valueOr(model.Op, ""), Path: valueOr(model.Path, ""), XML: valueOr(model.XML, "")})
	}
	return h, diags
}

func (b *vmHardware) toSpec(ctx context.Context, spec *vm.Spec) (diags diag.Diagnostics) {
	spec.Hardware, diags = b.hardware(ctx)
	return diags
}

// fromVM keeps the spelling of an attribute that says what the VM has.
func (b *vmHardware) fromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
	b.ConsoleLog = types.StringValue(found.ConsoleLog)
	var was hypervisor.Hardware
	var diags diag.Diagnostics
	known, err := fullyKnown(ctx, b, vmNames().configurable)
	if err == nil && known {
		was, diags = b.hardware(ctx)
	}
	is := found.Spec.Hardware
	keeps := func(value attr.Value, was, is any) bool { return known && !value.IsUnknown() && sameHardware(was, is) }
	if !keeps(b.CPU, was.CPU, is.CPU) {
		b.CPU = cpuValue(ctx, is.CPU, &diags)
	}
	if !keeps(b.MemoryBacking, was.Memory, is.Memory) {
		b.MemoryBacking = types.ObjectNull(memoryBackingTypes)
		if is.Memory != (hypervisor.MemoryBacking{}) {
			model := memoryBackingModel{NUMANodes: unlessZero(is.Memory.Nodes), NUMAMode: unlessZero(is.Memory.Mode),
				HugePageSize: sizeValue{StringValue: types.StringNull()}}
			if is.Memory.HugePages != 0 {
				model.HugePageSize = newSize(is.Memory.HugePages)
			}
			b.MemoryBacking = object(ctx, memoryBackingTypes, model, &diags)
		}
	}
	b.Machine = types.StringPointerValue(unlessZero(is.Machine))
	b.TPM, b.Watchdog = types.StringPointerValue(unlessZero(is.TPM)), types.StringPointerValue(unlessZero(is.Watchdog))
	if !keeps(b.Graphics, was.Graphics, is.Graphics) {
		b.Graphics = types.ObjectNull(graphicsTypes)
		if g := is.Graphics; g != nil {
			b.Graphics = object(ctx, graphicsTypes, graphicsModel{
				Type: unlessZero(g.Type), Listen: unlessZero(g.Listen), Port: unlessZero(int64(g.Port)),
				Socket: unlessZero(g.Socket), Video: unlessZero(g.Video),
			}, &diags)
		}
	}
	if !keeps(b.RNG, was.Random, is.Random) {
		b.RNG = types.ObjectNull(rngTypes)
		if is.Random != (hypervisor.Random{}) {
			b.RNG = object(ctx, rngTypes,
				rngModel{unlessZero(is.Random.Source), unlessZero(int64(is.Random.BytesPerSecond))}, &diags)
		}
	}
	if !keeps(b.HostDirectories, was.Directories, is.Directories) {
		b.HostDirectories = mapOf(ctx, hostDirectoryType, is.Directories,
			func(one hypervisor.Directory) hostDirectoryModel {
				return hostDirectoryModel{unlessZero(one.Path), unlessZero(one.ReadOnly)}
			}, &diags)
	}
	if !keeps(b.HostDevices, was.Devices, is.Devices) {
		b.HostDevices = mapOf(ctx, hostDeviceType, is.Devices, func(one hypervisor.HostDevice) hostDeviceModel {
			return hostDeviceModel{unlessZero(one.PCI), unlessZero(one.USB)}
		}, &diags)
	}
	if !keeps(b.XMLPatch, was.Patches, is.Patches) {
		b.XMLPatch = types.ListNull(xmlPatchType)
		if len(is.Patches) > 0 {
			models := make([]xmlPatchModel, len(is.Patches))
			for i, patch := range is.Patches {
				models[i] = xmlPatchModel{unlessZero(patch.Op), unlessZero(patch.Path), unlessZero(patch.XML)}
			}
			var d diag.Diagnostics
			b.XMLPatch, d = types.ListValueFrom(ctx, xmlPatchType, models)
			diags.Append(d...)
		}
	}
	return diags
}

func cpuValue(ctx context.Context, is hypervisor.CPU, diags *diag.Diagnostics) types.Object {
	if reflect.DeepEqual(is, hypervisor.CPU{}) {
		return types.ObjectNull(cpuTypes)
	}
	model := cpuModel{
		Model: unlessZero(is.Model), Sockets: unlessZero(int64(is.Sockets)), Cores: unlessZero(int64(is.Cores)),
		Threads: unlessZero(int64(is.Threads)),
		Shares:  unlessZero(int64(is.Shares)),
	}
	for vcpu, pins := range is.Pins {
		if model.Pinning == nil {
			model.Pinning = map[string]string{}
		}
		model.Pinning[strconv.Itoa(vcpu)] = pins
	}
	return object(ctx, cpuTypes, model, diags)
}

// mapOf converts what a VM has by name; null if there is none.
func mapOf[T, M any](ctx context.Context, of types.ObjectType, is map[string]T, convert func(T) M,
	diags *diag.Diagnostics) types.Map {
	if len(is) == 0 {
		return types.MapNull(of)
	}
	models := make(map[string]M, len(is))
	for name, one := range is {
		models[name] = convert(one)
	}
	value, d := types.MapValueFrom(ctx, of, models)
	diags.Append(d...)
	return value
}

// sameHardware compares a part of the hardware. Maps and lists without elements are equal to none.
func sameHardware(a, b any) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	if (x.Kind() == reflect.Map || x.Kind() == reflect.Slice) && x.Len() == 0 && y.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a, b)
}

func (b *vmHardware) compare(state *vmModel, change *vmChange) {
	if sameValues(b, &state.vmHardware, vmNames().configurable) {
		return
	}
	change.definition = true // what differs in words only
	var want, have vm.Spec
	for block, spec := range map[*vmHardware]*vm.Spec{b: &want, &state.vmHardware: &have} {
		known, err := fullyKnown(context.Background(), block, vmNames().configurable)
		if err != nil || !known || block.toSpec(context.Background(), spec).HasError() {
			change.hardware = true
			return
		}
	}
	change.hardware = change.hardware || len(vm.HardwareChanges(have.Hardware, want.Hardware)) > 0
	change.compute = change.compute || have.Hardware.CPU.Shares != want.Hardware.CPU.Shares
}

// validate checks what concerns several attributes.
func (b *vmHardware) validate() (diags diag.Diagnostics) {
	diags = exactlyOne(path.Root("host_devices"), b.HostDevices, "pci", "usb")
	if !unset(b.Graphics) {
		set := func(name string) bool {
			return !b.Graphics.Attributes()[name].IsNull() && !b.Graphics.Attributes()[name].IsUnknown()
		}
		for _, name := range []string{"listen", "port"} {
			if set("socket") && set(name) {
				diags.Append(failedAt(path.Root("graphics").AtName(name), failure{
					do: "use", object: "graphics", err: fmt.Errorf("it is on a unix socket, which has no %s", name),
					next: "Leave out " + name + " or socket.",
				})...)
			}
		}
	}
	if !unset(b.MemoryBacking) {
		if values := b.MemoryBacking.Attributes(); !unset(values["numa_mode"]) && values["numa_nodes"].IsNull() {
			diags.Append(failedAt(path.Root("memory_backing").AtName("numa_mode"), failure{
				do: "use", object: "memory_backing", err: errors.New("it has no numa_nodes"),
				next: "Set numa_nodes, too, or leave out numa_mode.",
			})...)
		}
	}
	for i, element := range b.XMLPatch.Elements() {
		one, ok := element.(types.Object)
		if !ok || unset(one) {
			continue
		}
		values := one.Attributes()
		if slices.ContainsFunc(slices.Collect(maps.Values(values)), func(v attr.Value) bool { return v.IsUnknown() }) {
			continue
		}
		text := func(name string) string {
			value, _ := values[name].(types.String)
			return value.ValueString()
		}
		if err := (hypervisor.Patch{Op: text("op"), Path: text("path"), XML: text("xml")}).Check(); err != nil {
			diags.Append(failedAt(path.Root("xml_patch").AtListIndex(i), failure{
				do: "use", object: fmt.Sprintf("patch %d", i+1), err: err, next: "Correct it.",
			})...)
		}
	}
	return diags
}

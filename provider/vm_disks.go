package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmDisks are the further disks of a VM.
type vmDisks struct {
	Disks types.Map `tfsdk:"disks"`
}

var (
	_ vmBlock               = (*vmDisks)(nil)
	_ vmBlockWithPlan       = (*vmDisks)(nil)
	_ vmBlockWithValidation = (*vmDisks)(nil)
)

// diskModel is one value of the attribute disks.
type diskModel struct {
	Size               sizeValue `tfsdk:"size"`
	Pool               *string   `tfsdk:"pool"`
	Volume             *string   `tfsdk:"volume"`
	Format             *string   `tfsdk:"format"`
	Cache              *string   `tfsdk:"cache"`
	Discard            *string   `tfsdk:"discard"`
	Serial             *string   `tfsdk:"serial"`
	ReadOnly           *bool     `tfsdk:"read_only"`
	DeletionProtection *bool     `tfsdk:"deletion_protection"`
	FileSystem         *string   `tfsdk:"file_system"`
	MountPoint         *string   `tfsdk:"mount_point"`
}

const (
	minFurtherDisk = 1 << 20
	// minXFS is the least size in bytes of which mkfs.xfs makes a file system.
	minXFS = 300 << 20
)

func disksAttribute() schema.MapNestedAttribute {
	const powerOff, live = "A change takes a power-off and start of a VM that runs.", "A change is live."
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: fmt.Sprintf(
			"Further disks, by names of your choice, at most %d. Each has either `size` or `volume`. Disks are attached "+
				"and detached live, and grow live. **Removing a disk that has `size` deletes its data**, as does destroying the VM. A disk that is "+
				"detached is unmounted first; that is refused with the names of its users if it is in use in the VM. "+
				"A running VM has PCIe ports for some disks more than it was started with; the plan says if these do "+
				"not suffice.",
			hypervisor.MaxDisks),
		Validators: []validator.Map{mapvalidator.KeysAre(isDiskName), mapvalidator.SizeAtMost(hypervisor.MaxDisks)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"size": schema.StringAttribute{
				Optional: true, CustomType: sizeType{},
				MarkdownDescription: "Size of a disk of the VM's own, such as `20GiB`. It grows live, with a file system of `file_system`, and cannot " +
					"shrink. At least 1MiB.",
				Validators: []validator.String{sizeAtLeast(minFurtherDisk)},
			},
			"pool": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "libvirt storage pool of the disk, which has to exist. Default: that of the " +
					"private disk. A change is refused: a disk in another pool is another disk, so give it another " +
					"name.",
				Validators: []validator.String{isPoolName},
			},
			"volume": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Name of an existing volume in `pool`, instead of `size`. It is never made, grown or deleted by this provider. A " +
					"change is refused: give the disk another name.",
				Validators: []validator.String{isVolume},
			},
			"format": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(hypervisor.FormatRaw),
				MarkdownDescription: "Format of the volume: `raw` or `qcow2`, the latter in pools of directories only. It is never guessed. Both take space " +
					"only as they fill, where the pool can. Default: `raw`. A change is refused.",
				Validators: []validator.String{oneOf(hypervisor.DiskFormats...)},
			},
			"cache": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(hypervisor.DiskCaches[0]),
				MarkdownDescription: "Cache mode of QEMU: `none`, `writeback`, `writethrough`, `directsync` or `unsafe`. Default: `none`. " + powerOff,
				Validators:          []validator.String{oneOf(hypervisor.DiskCaches...)},
			},
			"discard": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(hypervisor.DiskDiscards[0]),
				MarkdownDescription: "What becomes of what the guest discards (fstrim): `unmap` frees it on the host, `ignore` does not. Default: `unmap`. " + powerOff,
				Validators:          []validator.String{oneOf(hypervisor.DiskDiscards...)},
			},
			"serial": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Serial of the disk, by which the guest finds it: `/dev/disk/by-id/virtio-<serial>`. At most 20 letters, digits, `_` and `-`. " +
					"Default: the name of the disk. " + powerOff,
				Validators: []validator.String{isDiskSerial},
			},
			"read_only": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Whether the VM can only read the disk. Default: false. " + powerOff,
			},
			protection: schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Whether the disk is protected from being removed. While it is true in state, a plan that would remove the disk, or destroy or " +
					"replace the VM, fails. It is recorded in the libvirt domain. " + live + " Default: false.",
			},
			"file_system": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "File system that the VM mounts at `mount_point`: `ext4` or `xfs`. The VM makes it if the disk is empty, and only then: a " +
					"disk with anything at its start or end is never formatted. The base needs its `mkfs` (Debian: `e2fsprogs`, `xfsprogs`). `xfs` needs " +
					"at least 300MiB. " + live,
				Validators: []validator.String{oneOf(agentapi.FileSystems...)},
			},
			"mount_point": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Directory in the VM at which the file system is mounted, now and at each boot, such as `/srv/data`. A systemd mount unit " +
					"does it; a boot goes on without a disk that cannot be mounted. Not below `/usr`, `/etc` and other directories of the operating system. " + live,
				Validators: []validator.String{isMountPoint},
			},
		}},
	}
}

var diskObjectType = types.ObjectType{AttrTypes: typesOf(disksAttribute().NestedObject.Attributes)}

func (*vmDisks) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"disks": disksAttribute()}
}

func (b *vmDisks) validate() diag.Diagnostics {
	diags := exactlyOne(path.Root("disks"), b.Disks, "size", "volume")
	elements := b.Disks.Elements()
	serials, points := map[string]string{}, map[string]string{} // the disk that has one
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		one, ok := elements[name].(types.Object)
		if !ok || unset(one) {
			continue
		}
		at := path.Root("disks").AtMapKey(name)
		refuse := func(attribute string, err error, next string) {
			diags.Append(failedAt(at.AtName(attribute),
				failure{do: "use", object: fmt.Sprintf("disk %q", name), err: err, next: next})...)
		}
		known := func(attribute string) (string, bool) {
			value, ok := one.Attributes()[attribute].(types.String)
			return value.ValueString(), ok && !unset(value)
		}
		serial, given := known("serial")
		if value, ok := one.Attributes()["serial"].(types.String); ok && value.IsNull() {
			serial, given = name, true
			if err := hypervisor.CheckDiskSerial(name); err != nil && isDiskName.check(name) == nil {
				refuse("serial", fmt.Errorf("its name cannot be its serial: %w", err),
					"Set serial, or choose another name.")
			}
		}
		if other, twice := serials[serial]; twice && given {
			refuse("serial", fmt.Errorf("disk %q has the serial %s, too", other, serial),
				"Set another serial for one of them.")
		} else if given {
			serials[serial] = name
		}
		point, mounted := known("mount_point")
		if other, twice := points[point]; twice && mounted {
			refuse("mount_point", fmt.Errorf("disk %q is mounted at %s, too", other, point),
				"Choose another mount point for one of them.")
		} else if mounted {
			points[point] = name
		}
		system, formatted := known("file_system")
		switch {
		case formatted && one.Attributes()["mount_point"].IsNull():
			refuse("file_system", errors.New("it has no mount_point"), "Set mount_point, too, or neither of both.")
		case mounted && one.Attributes()["file_system"].IsNull():
			refuse("mount_point", errors.New("it has no file_system"), "Set file_system, too, or neither of both.")
		}
		if size, ok := one.Attributes()["size"].(sizeValue); ok && !unset(size) &&
			system == agentapi.XFS && size.Bytes() < minXFS {
			refuse("size", fmt.Errorf("xfs needs at least %s", formatSize(minXFS)), "Set a larger size, or use ext4.")
		}
	}
	return diags
}

// models reads the attribute, which must be known throughout.
func (b *vmDisks) models(ctx context.Context) (models map[string]diskModel, diags diag.Diagnostics) {
	if b.Disks.IsNull() || b.Disks.IsUnknown() {
		return nil, nil
	}
	diags = b.Disks.ElementsAs(ctx, &models, false)
	return models, diags
}

func (b *vmDisks) toSpec(ctx context.Context, spec *vm.Spec) diag.Diagnostics {
	models, diags := b.models(ctx)
	spec.Disks = make(map[string]vm.Disk, len(models)) // not nil: it is known which there are
	for name, model := range models {
		spec.Disks[name] = vm.Disk{
			DiskDevice: hypervisor.DiskDevice{
				Format:   valueOr(model.Format, hypervisor.DiskFormats[0]),
				Cache:    valueOr(model.Cache, hypervisor.DiskCaches[0]),
				Discard:  valueOr(model.Discard, hypervisor.DiskDiscards[0]),
				Serial:   valueOr(model.Serial, name),
				ReadOnly: valueOr(model.ReadOnly, false),
			},
			Pool: valueOr(model.Pool, ""), Volume: valueOr(model.Volume, ""), Size: model.Size.Bytes(),
			Protected:  valueOr(model.DeletionProtection, false),
			FileSystem: valueOr(model.FileSystem, ""), MountPoint: valueOr(model.MountPoint, ""),
		}
	}
	return diags
}

// valueOr is the value of a pointer, or another one if that is nil.
func valueOr[T any](of *T, otherwise T) T {
	if of == nil {
		return otherwise
	}
	return *of
}

// unlessZero is a pointer to a value; nil for the zero value.
func unlessZero[T comparable](value T) *T {
	var zero T
	if value == zero {
		return nil
	}
	return &value
}

func (b *vmDisks) fromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
	if len(found.Spec.Disks) == 0 && len(b.Disks.Elements()) == 0 && !b.Disks.IsUnknown() {
		return nil
	}
	before, diags := b.models(ctx)
	models := make(map[string]diskModel, len(found.Spec.Disks))
	for name, disk := range found.Spec.Disks {
		was := before[name]
		model := diskModel{
			Size: sizeValue{types.StringNull()}, Pool: unlessZero(disk.Pool), Volume: unlessZero(disk.Volume),
			Format: &disk.Format, Cache: &disk.Cache, Discard: &disk.Discard, Serial: &disk.Serial,
			ReadOnly:           &disk.ReadOnly,
			DeletionProtection: &disk.Protected, FileSystem: unlessZero(disk.FileSystem),
			MountPoint: unlessZero(disk.MountPoint),
		}
		if disk.Size > 0 {
			if model.Size = newSize(disk.Size); was.Size.same(model.Size) {
				model.Size = was.Size
			}
		}
		if disk.Pool == "" && found.Pool != "" && valueOr(was.Pool, "") == found.Pool {
			model.Pool = was.Pool // the pool of the private disk may be said or not
		}
		if disk.Serial == name && was.Serial == nil {
			model.Serial = nil
		}
		models[name] = model
	}
	value, d := types.MapValueFrom(ctx, diskObjectType, models)
	b.Disks = value
	return append(diags, d...)
}

// completePlan keeps the spelling of a size that stays.
func (b *vmDisks) completePlan(_, state *vmModel) {
	if state == nil || b.Disks.IsNull() || b.Disks.IsUnknown() {
		return
	}
	had, elements := state.Disks.Elements(), maps.Clone(b.Disks.Elements())
	for name, element := range elements {
		one, ok := element.(types.Object)
		other, okToo := had[name].(types.Object)
		if !ok || !okToo || unset(one) || unset(other) {
			continue
		}
		size, ok := one.Attributes()["size"].(sizeValue)
		was, okToo := other.Attributes()["size"].(sizeValue)
		if !ok || !okToo || !size.same(was) {
			continue
		}
		attributes := maps.Clone(one.Attributes())
		attributes["size"] = was
		elements[name] = types.ObjectValueMust(diskObjectType.AttrTypes, attributes)
	}
	b.Disks = types.MapValueMust(diskObjectType, elements)
}

func (b *vmDisks) compare(state *vmModel, change *vmChange) {
	if b.Disks.Equal(state.Disks) {
		return
	}
	// The protection of a disk, and what differs in words only, reach the definition alone.
	change.definition = true
	want, have, known := b.both(state)
	if !known {
		change.disks = true
		return
	}
	move, err := vm.Plan(vm.Spec{Running: true, Disks: have}, vm.Spec{Running: true, Disks: want}, false)
	change.hardware = change.hardware || move.PowerCycle()
	change.disks = change.disks || err != nil || move.Disks.Any()
}

// both returns the disks in the plan and in state. known is false if those in the plan are not known yet.
func (b *vmDisks) both(state *vmModel) (want, have map[string]vm.Disk, known bool) {
	var specs [2]vm.Spec
	for i, block := range []*vmDisks{b, &state.vmDisks} {
		known, err := fullyKnown(context.Background(), block, vmNames().configurable)
		if err != nil || !known || block.toSpec(context.Background(), &specs[i]).HasError() {
			return nil, nil, false
		}
	}
	return specs[0].Disks, specs[1].Disks, true
}

// refuseShrink refuses a plan with a disk that would be smaller than it is.
func (b *vmDisks) refuseShrink(vmName string, state *vmModel) (diags diag.Diagnostics) {
	want, have, _ := b.both(state)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		is, to := have[name].Size, want[name].Size
		if to == 0 || to >= is {
			continue
		}
		diags.Append(failedAt(path.Root("disks").AtMapKey(name).AtName("size"), failure{
			do: "plan", object: vmName,
			err:  fmt.Errorf("its disk %q has %s and cannot shrink to %s", name, formatSize(is), formatSize(to)),
			next: "Set size to " + formatSize(is) + " or more. Data would be lost otherwise.",
		})...)
	}
	return diags
}

// protectedDisk returns the name of a disk that is protected in state; "" if there is none.
func (b *vmDisks) protectedDisk() string {
	elements := b.Disks.Elements()
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		one, ok := elements[name].(types.Object)
		if !ok || unset(one) {
			continue
		}
		if protected, ok := one.Attributes()[protection].(types.Bool); ok && protected.ValueBool() {
			return name
		}
	}
	return ""
}

// protectedBy is the path of what protects a VM in state, and its name; "" if nothing does.
func (m *vmModel) protectedBy() (at path.Path, what string) {
	if m.DeletionProtection.ValueBool() {
		return path.Root(protection), protection
	}
	if name := m.protectedDisk(); name != "" {
		at = path.Root("disks").AtMapKey(name).AtName(protection)
		return at, at.String()
	}
	return path.Empty(), ""
}

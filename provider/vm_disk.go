package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmDisk is the private disk of a VM.
type vmDisk struct {
	Disk types.Object `tfsdk:"disk"`
}

var (
	_ vmBlock         = (*vmDisk)(nil)
	_ vmBlockWithPlan = (*vmDisk)(nil)
)

const minDiskSize = 64 << 20

func diskAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Required: true,
		MarkdownDescription: "The private disk. It holds the VM's own data and nothing of the operating system. It " +
			"takes space on the host only as it fills.",
		Attributes: map[string]schema.Attribute{
			"size": schema.StringAttribute{
				Required: true, CustomType: sizeType{},
				MarkdownDescription: "Size, such as `4GiB`. It can grow but not shrink. At least 64MiB.",
				Validators:          []validator.String{sizeAtLeast(minDiskSize)},
			},
		},
	}
}

var diskTypes = typesOf(diskAttribute().Attributes)

func (*vmDisk) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"disk": diskAttribute()}
}

// diskSize is the size of the private disk. It is unknown as long as the attribute is unknown or absent.
func (b *vmDisk) diskSize() sizeValue {
	if b.Disk.IsNull() || b.Disk.IsUnknown() {
		return sizeValue{types.StringUnknown()}
	}
	size, ok := b.Disk.Attributes()["size"].(sizeValue)
	if !ok {
		return sizeValue{types.StringNull()}
	}
	return size
}

func (b *vmDisk) completePlan(_, state *vmModel) {
	if state != nil && b.diskSize().same(state.diskSize()) {
		b.Disk = state.Disk
	}
}

func (b *vmDisk) toSpec(_ context.Context, spec *vm.Spec) diag.Diagnostics {
	spec.DiskSize = b.diskSize().Bytes()
	return nil
}

func (b *vmDisk) fromVM(_ context.Context, found *vm.VM) (diags diag.Diagnostics) {
	if size := newSize(found.Spec.DiskSize); !b.diskSize().same(size) {
		b.Disk, diags = types.ObjectValue(diskTypes, map[string]attr.Value{"size": size})
	}
	return diags
}

func (b *vmDisk) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmDisk, vmNames().configurable) {
		change.disk = true
	}
}

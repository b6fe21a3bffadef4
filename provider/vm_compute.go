package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmCompute is the processors and memory of a VM.
type vmCompute struct {
	VCPUs     types.Int64 `tfsdk:"vcpus"`
	MaxVCPUs  types.Int64 `tfsdk:"max_vcpus"`
	Memory    sizeValue   `tfsdk:"memory"`
	MaxMemory sizeValue   `tfsdk:"max_memory"`
}

var (
	_ vmBlock               = (*vmCompute)(nil)
	_ vmBlockWithPlan       = (*vmCompute)(nil)
	_ vmBlockWithValidation = (*vmCompute)(nil)
)

const minMemory = 128 << 20

func (*vmCompute) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"vcpus": schema.Int64Attribute{
			Optional: true, Computed: true, Default: int64default.StaticInt64(1),
			MarkdownDescription: "Virtual CPUs. A change is live up to `max_vcpus`: it interrupts nothing, and is taken back if the " +
				"guest does not follow. Without `max_vcpus`, it takes a power-off. Default: 1.",
			Validators: []validator.Int64{int64validator.Between(1, hypervisor.MaxVCPUs)},
		},
		"max_vcpus": schema.Int64Attribute{
			Optional: true,
			MarkdownDescription: "How many virtual CPUs the VM can have while it runs. A change takes a power-off. " +
				"If it is not set, the VM keeps its `vcpus` while it runs. On a host without KVM a VM can lose " +
				"processors while it runs, and not get any.",
			Validators: []validator.Int64{int64validator.Between(1, hypervisor.MaxVCPUs)},
		},
		"memory": schema.StringAttribute{
			Required: true, CustomType: sizeType{},
			MarkdownDescription: "Memory, such as `512MiB`: a whole number with one of the units B, KiB, MiB, GiB " +
				"and TiB. At least 128MiB. A change is live up to `max_memory`: it interrupts nothing, and what the guest needs " +
				"is not taken from it. Without `max_memory`, it takes a power-off.",
			Validators: []validator.String{sizeAtLeast(minMemory)},
		},
		"max_memory": schema.StringAttribute{
			Optional: true, CustomType: sizeType{},
			MarkdownDescription: "How much memory the VM can have while it runs, such as `2GiB`. The guest needs the driver " +
				"`virtio_balloon`, which holds what is above `memory`; the host does not spend memory on that. A change " +
				"takes a power-off. If it is not set, the VM keeps its `memory` while it runs.",
			Validators: []validator.String{sizeAtLeast(minMemory)},
		},
	}
}

func (b *vmCompute) completePlan(_, state *vmModel) {
	if state == nil {
		return
	}
	if b.Memory.same(state.Memory) {
		b.Memory = state.Memory
	}
	if b.MaxMemory.same(state.MaxMemory) {
		b.MaxMemory = state.MaxMemory
	}
}

// validate implements vmBlockWithValidation: it refuses maxima that are too small.
func (b *vmCompute) validate() (diags diag.Diagnostics) {
	if !unset(b.MaxVCPUs) && !b.VCPUs.IsUnknown() && b.MaxVCPUs.ValueInt64() < b.VCPUs.ValueInt64() {
		diags.AddAttributeError(path.Root("max_vcpus"), "A maximum of processors is too small",
			fmt.Sprintf(
				"The VM is to have %d processors, and at most %d while it runs. Set max_vcpus to %[1]d or more, or remove it.",
				b.VCPUs.ValueInt64(), b.MaxVCPUs.ValueInt64()))
	}
	if !unset(b.MaxMemory) && !b.Memory.IsUnknown() && b.MaxMemory.Bytes() < b.Memory.Bytes() {
		diags.AddAttributeError(path.Root("max_memory"), "A maximum of memory is too small",
			fmt.Sprintf(
				"The VM is to have %s of memory, and at most %s while it runs. Set max_memory to %[1]s or more, or remove it.",
				b.Memory.ValueString(), b.MaxMemory.ValueString()))
	}
	return diags
}

func (b *vmCompute) toSpec(_ context.Context, spec *vm.Spec) diag.Diagnostics {
	spec.VCPUs, spec.MaxVCPUs, spec.Memory = int(b.VCPUs.ValueInt64()), int(b.MaxVCPUs.ValueInt64()), b.Memory.Bytes()
	if !unset(b.MaxMemory) {
		spec.MaxMemory = b.MaxMemory.Bytes()
	}
	return nil
}

func (b *vmCompute) fromVM(_ context.Context, found *vm.VM) diag.Diagnostics {
	b.VCPUs = types.Int64Value(int64(found.Spec.VCPUs))
	b.MaxVCPUs = types.Int64Null()
	if most := found.Spec.MaxVCPUs; most != 0 {
		b.MaxVCPUs = types.Int64Value(int64(most))
	}
	if size := newSize(found.Spec.Memory); !b.Memory.same(size) {
		b.Memory = size
	}
	// A definition does not tell a maximum that equals the memory from none.
	most := newSize(max(found.Spec.Memory, found.Spec.MaxMemory))
	if unset(b.MaxMemory) && found.Spec.MaxMemory == 0 {
		b.MaxMemory = sizeValue{StringValue: types.StringNull()}
	} else if !b.MaxMemory.same(most) {
		b.MaxMemory = most
	}
	return nil
}

func (b *vmCompute) compare(state *vmModel, change *vmChange) {
	if sameValues(b, &state.vmCompute, vmNames().configurable) {
		return
	}
	var have, want vm.Spec
	for block, spec := range map[*vmCompute]*vm.Spec{b: &want, &state.vmCompute: &have} {
		if block.VCPUs.IsUnknown() || block.MaxVCPUs.IsUnknown() || block.Memory.IsUnknown() ||
			block.MaxMemory.IsUnknown() ||
			block.toSpec(context.Background(), spec).HasError() {
			change.hardware = true
			return
		}
	}
	change.definition = true // what differs in words only, such as a maximum that equals the memory
	change.hardware = change.hardware || !vm.ChangesLive(have, want)
	change.compute = change.compute || have.VCPUs != want.VCPUs || have.Memory != want.Memory
}

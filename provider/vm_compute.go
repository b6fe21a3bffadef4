package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmCompute is the processors and memory of a VM.
type vmCompute struct {
	VCPUs  types.Int64 `tfsdk:"vcpus"`
	Memory sizeValue   `tfsdk:"memory"`
}

var (
	_ vmBlock         = (*vmCompute)(nil)
	_ vmBlockWithPlan = (*vmCompute)(nil)
)

const minMemory = 128 << 20

func (*vmCompute) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"vcpus": schema.Int64Attribute{
			Optional: true, Computed: true, Default: int64default.StaticInt64(1),
			MarkdownDescription: "Virtual CPUs. Default: 1.",
			Validators:          []validator.Int64{int64validator.Between(1, hypervisor.MaxVCPUs)},
		},
		"memory": schema.StringAttribute{
			Required: true, CustomType: sizeType{},
			MarkdownDescription: "Memory, such as `512MiB`: a whole number with one of the units B, KiB, MiB, GiB " +
				"and TiB. At least 128MiB.",
			Validators: []validator.String{sizeAtLeast(minMemory)},
		},
	}
}

func (b *vmCompute) completePlan(_, state *vmModel) {
	if state != nil && b.Memory.same(state.Memory) {
		b.Memory = state.Memory
	}
}

func (b *vmCompute) toSpec(_ context.Context, spec *vm.Spec) diag.Diagnostics {
	spec.VCPUs, spec.Memory = int(b.VCPUs.ValueInt64()), b.Memory.Bytes()
	return nil
}

func (b *vmCompute) fromVM(_ context.Context, found *vm.VM) diag.Diagnostics {
	b.VCPUs = types.Int64Value(int64(found.Spec.VCPUs))
	if size := newSize(found.Spec.Memory); !b.Memory.same(size) {
		b.Memory = size
	}
	return nil
}

func (b *vmCompute) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmCompute, vmNames().configurable) {
		change.hardware = true
	}
}

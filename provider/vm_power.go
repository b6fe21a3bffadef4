package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmPower says whether a VM should run, and in which state it is.
type vmPower struct {
	Running types.Bool   `tfsdk:"running"`
	State   types.String `tfsdk:"state"`
}

var _ vmBlock = (*vmPower)(nil)

func (*vmPower) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"running": schema.BoolAttribute{
			Optional: true, Computed: true, Default: booldefault.StaticBool(true),
			MarkdownDescription: "Whether the VM should run. Default: true.",
		},
		"state": computedText("State of the domain when it was last read: `running`, `off`, `paused` or `crashed`."),
	}
}

func (b *vmPower) toSpec(_ context.Context, spec *vm.Spec) diag.Diagnostics {
	spec.Running = b.Running.ValueBool()
	return nil
}

func (b *vmPower) fromVM(_ context.Context, found *vm.VM) diag.Diagnostics {
	b.Running = types.BoolValue(found.State == hypervisor.Running)
	b.State = types.StringValue(stateName(found.State))
	return nil
}

// planState plans the attribute state: an apply that ends in another one fails.
func (b *vmPower) planState() {
	switch {
	case b.Running.IsUnknown():
		b.State = types.StringUnknown()
	case b.Running.ValueBool():
		b.State = types.StringValue(stateName(hypervisor.Running))
	default:
		b.State = types.StringValue(stateName(hypervisor.Off))
	}
}

func (b *vmPower) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmPower, vmNames().configurable) {
		change.power = true
	}
}

func stateName(state hypervisor.State) string { return state.String() }

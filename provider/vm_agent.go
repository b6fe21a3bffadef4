package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmAgent is the agent in the guest.
type vmAgent struct {
	computedOnly

	Agent types.Object `tfsdk:"agent"`
}

var _ vmBlock = (*vmAgent)(nil)

// agentModel is the attribute agent.
type agentModel struct {
	Version      types.String  `tfsdk:"version"`
	Digest       types.String  `tfsdk:"digest"`
	Refused      types.String  `tfsdk:"refused"`
	Kernel       types.String  `tfsdk:"kernel"`
	ReadySeconds types.Float64 `tfsdk:"ready_seconds"`
	Answering    types.Bool    `tfsdk:"answering"`
}

func agentAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed:            true,
		MarkdownDescription: "The agent in the guest, as of its last answer; null if it never answered.",
		Attributes: map[string]schema.Attribute{
			"version": computedText("Version of the agent. Every update of the VM replaces an agent that is not the " +
				"provider's own."),
			"digest": computedText("SHA-256 of the agent's program, of the form `sha256:<64 hex>`; null if the " +
				"agent does not report it."),
			"refused": computedText("Why the last attempt to replace the agent failed; null if none has failed since " +
				"the VM was started."),
			"kernel": computedText("Release of the running kernel, as `uname -r` prints it."),
			"ready_seconds": schema.Float64Attribute{
				Computed: true,
				MarkdownDescription: "Seconds from the start of the domain to the agent's first answer, for the last " +
					"start that Terraform waited for.",
			},
			"answering": schema.BoolAttribute{
				Computed: true,
				MarkdownDescription: "Whether the agent answered when it was last asked. An agent that does not " +
					"answer changes nothing in the plan.",
			},
		},
	}
}

var agentTypes = typesOf(agentAttribute().Attributes)

func (*vmAgent) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"agent": agentAttribute()}
}

func (b *vmAgent) fromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
	var model agentModel
	var diags diag.Diagnostics
	known := !unset(b.Agent)
	if known {
		diags = b.Agent.As(ctx, &model, basetypes.ObjectAsOptions{})
	}
	if !known && !found.Answered {
		b.Agent = types.ObjectNull(agentTypes)
		return diags
	}
	model.Answering = types.BoolValue(found.Answered)
	if found.Answered {
		model.Version = types.StringValue(guestText(found.Agent.GetAgentVersion()))
		model.Digest = optionalText(found.Agent.GetAgentDigest())
		model.Refused = optionalText(found.Agent.GetAgentRefused())
		model.Kernel = types.StringValue(guestText(found.Agent.GetKernel()))
	}
	// The host measures the whole start; the agent knows only its own part of it.
	switch {
	case found.ReadySeconds > 0:
		model.ReadySeconds = types.Float64Value(round(found.ReadySeconds))
	case !known:
		model.ReadySeconds = types.Float64Value(round(found.Agent.GetReadySeconds()))
	}
	b.Agent = object(ctx, agentTypes, model, &diags)
	return diags
}

// answering reports whether the agent answered when it was last asked.
func (b *vmAgent) answering() bool {
	answering, ok := b.Agent.Attributes()["answering"].(types.Bool)
	return ok && answering.ValueBool()
}

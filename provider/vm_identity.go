package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmIdentity is how libvirt, the network and the people who log in know the VM.
type vmIdentity struct {
	Name              types.String `tfsdk:"name"`
	UUID              types.String `tfsdk:"uuid"`
	Hostname          types.String `tfsdk:"hostname"`
	SSHAuthorizedKeys types.List   `tfsdk:"ssh_authorized_keys"`
}

var (
	_ vmBlock         = (*vmIdentity)(nil)
	_ vmBlockWithPlan = (*vmIdentity)(nil)
)

func (*vmIdentity) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"name": schema.StringAttribute{
			Required: true,
			MarkdownDescription: "Name of the VM and of its libvirt domain: lower-case letters, digits, dots, " +
				"underscores and hyphens. The name identifies the VM: another name is another VM.",
			Validators:    []validator.String{isName},
			PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
		},
		"uuid": schema.StringAttribute{Computed: true, MarkdownDescription: "UUID of the libvirt domain. It is also " +
			"the machine-id of the guest."},
		"hostname": schema.StringAttribute{
			Optional: true, Computed: true,
			MarkdownDescription: "Host name in the guest. Default: `name`.",
			Validators:          []validator.String{isHostname},
		},
		"ssh_authorized_keys": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "OpenSSH public keys that may log in as root.",
			Validators:          []validator.List{listvalidator.ValueStringsAre(isAuthorizedKey)},
		},
	}
}

func (b *vmIdentity) completePlan(config, _ *vmModel) {
	if config.Hostname.IsNull() {
		b.Hostname = b.Name
	}
}

func (b *vmIdentity) toSpec(ctx context.Context, spec *vm.Spec) (diags diag.Diagnostics) {
	spec.Name, spec.UUID, spec.Hostname = b.Name.ValueString(), b.UUID.ValueString(), b.Hostname.ValueString()
	spec.AuthorizedKeys = texts(ctx, b.SSHAuthorizedKeys, &diags)
	return diags
}

func (b *vmIdentity) fromVM(ctx context.Context, found *vm.VM) (diags diag.Diagnostics) {
	b.Name, b.UUID = types.StringValue(found.Spec.Name), types.StringValue(found.Spec.UUID)
	b.Hostname = types.StringValue(found.Spec.Hostname)
	b.SSHAuthorizedKeys = textList(ctx, b.SSHAuthorizedKeys, found.Spec.AuthorizedKeys, &diags)
	return diags
}

func (b *vmIdentity) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmIdentity, vmNames().configurable) {
		change.definition = true
	}
}

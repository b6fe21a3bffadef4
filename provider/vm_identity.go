package provider

import (
	"context"
	"fmt"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
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
	_ vmBlock               = (*vmIdentity)(nil)
	_ vmBlockWithPlan       = (*vmIdentity)(nil)
	_ vmBlockWithValidation = (*vmIdentity)(nil)
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
			MarkdownDescription: "Host name in the guest. Default: `name`. A change is live: new processes see it at once, and a " +
				"program that has read the old one keeps it until it is started again. `/etc/hosts` follows unless somebody has changed it.",
			Validators: []validator.String{isHostname},
		},
		"ssh_authorized_keys": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "OpenSSH public keys that may log in as root, such as `file(\"~/.ssh/id_ed25519.pub\")`. " +
				"Each is one line, which may start with options as in an `authorized_keys` file. A change is live, also of a key that is " +
				"removed; sessions that are open stay. Further keys in root's `authorized_keys` file are kept.",
		},
	}
}

func (b *vmIdentity) validate() (diags diag.Diagnostics) {
	if name := b.Name.ValueString(); b.Hostname.IsNull() && name != "" && isName.check(name) == nil &&
		isHostname.check(name) != nil {
		diags.Append(failedAt(path.Root("hostname"), failure{
			do: "use", object: "the name as the host name of " + vmName(name),
			err:  fmt.Errorf("%q is not a host name", name),
			next: "Set hostname, which must be " + isHostname.form + ".",
		})...)
	}
	for i, element := range b.SSHAuthorizedKeys.Elements() {
		text, ok := element.(types.String)
		if !ok || unset(text) {
			continue
		}
		if _, err := authorizedKey(text.ValueString()); err != nil {
			// Without the path: Terraform prints the lines that it leads to, which are the value if that is a literal.
			diags.Append(failed(failure{
				do: "use", object: fmt.Sprintf("the value of ssh_authorized_keys[%d]", i), err: err,
				next: "It must be a public key of OpenSSH on one line, such as the file id_ed25519.pub has it.",
			})...)
		}
	}
	return diags
}

func (b *vmIdentity) completePlan(config, _ *vmModel) {
	if config.Hostname.IsNull() {
		b.Hostname = b.Name
	}
}

func (b *vmIdentity) toSpec(ctx context.Context, spec *vm.Spec) (diags diag.Diagnostics) {
	spec.Name, spec.UUID, spec.Hostname = b.Name.ValueString(), b.UUID.ValueString(), b.Hostname.ValueString()
	spec.AuthorizedKeys = texts(ctx, b.SSHAuthorizedKeys, &diags)
	for i, text := range spec.AuthorizedKeys {
		spec.AuthorizedKeys[i] = trimKey(text)
	}
	return diags
}

func (b *vmIdentity) fromVM(ctx context.Context, found *vm.VM) (diags diag.Diagnostics) {
	b.Name, b.UUID = types.StringValue(found.Spec.Name), types.StringValue(found.Spec.UUID)
	b.Hostname = types.StringValue(found.Spec.Hostname)
	// A key with a line end, as file() reads it, is the same key.
	var before []string
	if !b.SSHAuthorizedKeys.IsUnknown() {
		before = texts(ctx, b.SSHAuthorizedKeys, &diags)
	}
	if !slices.EqualFunc(before, found.Spec.AuthorizedKeys, func(was, is string) bool { return trimKey(was) == is }) {
		b.SSHAuthorizedKeys = textList(ctx, b.SSHAuthorizedKeys, found.Spec.AuthorizedKeys, &diags)
	}
	return diags
}

func (b *vmIdentity) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmIdentity, vmNames().configurable) {
		change.definition = true
	}
}

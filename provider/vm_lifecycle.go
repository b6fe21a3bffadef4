package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmLifeCycle is what libvirt knows of a VM in addition to its stack and its hardware.
type vmLifeCycle struct {
	Autostart          types.Bool   `tfsdk:"autostart"`
	DeletionProtection types.Bool   `tfsdk:"deletion_protection"`
	Title              types.String `tfsdk:"title"`
	Description        types.String `tfsdk:"description"`
}

var (
	_ vmBlock         = (*vmLifeCycle)(nil)
	_ vmBlockWithPlan = (*vmLifeCycle)(nil)
)

// protection is the name of the attribute that keeps a VM from being deleted.
const protection = "deletion_protection"

func (*vmLifeCycle) attributes() map[string]schema.Attribute {
	const live = "A change is live: it interrupts nothing. "
	return map[string]schema.Attribute{
		"autostart": schema.BoolAttribute{
			Optional: true, Computed: true, Default: booldefault.StaticBool(false),
			MarkdownDescription: "Whether libvirt starts the VM when its host starts, without Terraform. " + live +
				"On a host without `/dev/vhost-vsock`, this needs the libvirt hook `examples/host/libvirt-hook-vsock`, and " +
				"a VM that ran at least once; a plan warns if the hook is not there. A VM with `running = false` is " +
				"started, too. Default: false.",
		},
		protection: schema.BoolAttribute{
			Optional: true, Computed: true, Default: booldefault.StaticBool(false),
			MarkdownDescription: "Whether the VM is protected from being destroyed or replaced, with its private " +
				"disk. While it is true in state, a plan that would do so fails, or the apply does if Terraform does " +
				"not tell the plan (`-replace`, a tainted VM). It is recorded in the libvirt domain, so that it also " +
				"counts for other " +
				"configurations. To destroy the VM, set it to false and apply first. " + live + "Default: false.",
		},
		"title": schema.StringAttribute{
			Optional: true, Computed: true,
			MarkdownDescription: "Title of the libvirt domain, one line for people who look with virsh. " + live +
				"If it is not set, the domain keeps the title that it has; `\"\"` removes it.",
			Validators: []validator.String{isTitle},
		},
		"description": schema.StringAttribute{
			Optional: true, Computed: true,
			MarkdownDescription: "Description of the libvirt domain, for people who look with virsh. " + live +
				"If it is not set, the domain keeps the description that it has; `\"\"` removes it.",
			Validators: []validator.String{isDescription},
		},
	}
}

func (b *vmLifeCycle) completePlan(config, state *vmModel) {
	had := vmLifeCycle{Title: types.StringNull(), Description: types.StringNull()}
	if state != nil {
		had = state.vmLifeCycle
	}
	if config.Title.IsNull() {
		b.Title = had.Title
	}
	if config.Description.IsNull() {
		b.Description = had.Description
	}
}

func (b *vmLifeCycle) toSpec(_ context.Context, spec *vm.Spec) diag.Diagnostics {
	spec.LifeCycle = vm.LifeCycle{
		Autostart: b.Autostart.ValueBool(), Protected: b.DeletionProtection.ValueBool(),
		Title: b.Title.ValueStringPointer(), Description: b.Description.ValueStringPointer(),
	}
	return nil
}

// keepUnset leaves texts that are not configured as the VM has them, also if they have changed since the plan.
func (b *vmLifeCycle) keepUnset(spec *vm.Spec) {
	if b.Title.IsNull() {
		spec.LifeCycle.Title = nil
	}
	if b.Description.IsNull() {
		spec.LifeCycle.Description = nil
	}
}

func (b *vmLifeCycle) fromVM(_ context.Context, found *vm.VM) diag.Diagnostics {
	is := found.Spec.LifeCycle
	b.Autostart, b.DeletionProtection = types.BoolValue(is.Autostart), types.BoolValue(is.Protected)
	b.Title, b.Description = describedAs(b.Title, is.Title), describedAs(b.Description, is.Description)
	return nil
}

// describedAs is the value of a text of a VM. That it has none may be spelled null or "".
func describedAs(was types.String, is *string) types.String {
	switch {
	case is != nil && *is != "":
		return types.StringValue(*is)
	case was.Equal(types.StringValue("")):
		return was
	default:
		return types.StringNull()
	}
}

func (b *vmLifeCycle) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmLifeCycle, vmNames().configurable) {
		change.lifeCycle = true
	}
}

// keepProtected refuses to destroy or to replace a VM that is protected in state. A VM whose creation was not finished
// is not protected: it has no data yet.
func (m *vmModel) keepProtected(ctx context.Context, do string, private privateState) diag.Diagnostics {
	at, what := m.protectedBy()
	if what == "" {
		return nil
	}
	unfinished, diags := isUnfinished(ctx, private)
	if unfinished || diags.HasError() {
		return diags
	}
	err := fmt.Errorf("%w: %s is true in state", vm.ErrProtected, what)
	return append(diags, failedAt(at, failure{do: do, object: vmName(m.Name.ValueString()), err: err})...)
}

// protectedVM is the error that a VM is protected.
func protectedVM(do, name string, err error) diag.Diagnostics {
	return failedAt(path.Root(protection), failure{do: do, object: vmName(name), err: err})
}

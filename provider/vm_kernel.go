package provider

import (
	"context"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmKernel is what the kernel of a VM is told.
type vmKernel struct {
	Arguments types.List `tfsdk:"kernel_arguments"`
}

var (
	_ vmBlock               = (*vmKernel)(nil)
	_ vmBlockWithValidation = (*vmKernel)(nil)
)

// isKernelArgument accepts an argument of the kernel.
var isKernelArgument = textRule{form: "an argument of the kernel, such as transparent_hugepage=never",
	check: hypervisor.CheckKernelArg}

func (*vmKernel) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"kernel_arguments": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Arguments for the kernel of the VM, after those that this provider sets: `[\"transparent_hugepage=never\"]`. Everybody in the guest can " +
				"read them (/proc/cmdline), so they must not be secrets. Those that say how the VM boots (`root=`, `init=`, `console=`, `panic=` and others) are " +
				"refused. A change takes effect at the next boot: the next start after a power-off, or a refresh " +
				"that goes through kexec. A reboot from inside the guest boots with the old ones. It interrupts " +
				"nothing by itself.",
			Validators: []validator.List{listvalidator.ValueStringsAre(isKernelArgument)},
		},
	}
}

func (b *vmKernel) validate() (diags diag.Diagnostics) {
	if b.Arguments.IsUnknown() {
		return nil
	}
	if err := hypervisor.CheckKernelArgs(textsOf(b.Arguments)); err != nil {
		diags.Append(failedAt(path.Root("kernel_arguments"),
			failure{do: "use", object: "kernel_arguments", err: err, next: "Remove some."})...)
	}
	return diags
}

func (b *vmKernel) toSpec(_ context.Context, spec *vm.Spec) diag.Diagnostics {
	spec.KernelArgs = textsOf(b.Arguments)
	return nil
}

func (b *vmKernel) fromVM(_ context.Context, found *vm.VM) diag.Diagnostics {
	if b.Arguments.IsUnknown() || !slices.Equal(textsOf(b.Arguments), found.Spec.KernelArgs) {
		b.Arguments = listOrNull(found.Spec.KernelArgs)
	}
	return nil
}

func (b *vmKernel) compare(state *vmModel, change *vmChange) {
	if strings.Join(textsOf(b.Arguments), " ") != strings.Join(textsOf(state.Arguments), " ") ||
		b.Arguments.IsUnknown() {
		change.nextBoot = true
	}
	change.definition = change.definition || !b.Arguments.Equal(state.Arguments)
}

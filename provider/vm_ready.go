package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmReady is what an apply that starts a VM waits for.
type vmReady struct {
	Ready types.Object `tfsdk:"ready"`
}

var (
	_ vmBlock               = (*vmReady)(nil)
	_ vmBlockWithValidation = (*vmReady)(nil)
)

// readyModel is the attribute ready.
type readyModel struct {
	Units        types.List   `tfsdk:"units"`
	HealthChecks types.Map    `tfsdk:"health_checks"`
	Address      types.Bool   `tfsdk:"address"`
	Timeout      types.String `tfsdk:"timeout"`
}

func readyAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "What an apply waits for when it starts the VM, after its agent answers and systemd has " +
			"started the services. If it does not come in time, the apply fails and says what is missing; a VM that " +
			"is new is tainted then, and others go on running. Applies that start nothing do not wait, and refreshes " +
			"have health checks of their own. A change is live: it interrupts nothing.",
		Attributes: map[string]schema.Attribute{
			"units": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Systemd units that must be active, such as `nginx.service`.",
				Validators: []validator.List{
					listvalidator.ValueStringsAre(isActiveUnit), listvalidator.UniqueValues(),
					listvalidator.SizeBetween(1, maxReadyUnits),
				},
			},
			"health_checks": schema.MapNestedAttribute{
				Optional: true,
				MarkdownDescription: "Health checks that must be good, by names of your choice. Each has exactly one of `unit`, `http`, " +
					"`tcp` and `command`. `ready.timeout` counts for all of them; `timeout` bounds one attempt, of at most 10 s.",
				NestedObject: healthCheckAttributes(),
			},
			"address": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Whether the VM must have an address. If it is false, an apply waits for one " +
					"for a minute, and warns if none comes. Default: false.",
			},
			"timeout": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString("5m"),
				MarkdownDescription: "How long the VM may take, such as `90s`, within the time of the apply (`timeouts`). Default: `5m`.",
				Validators:          []validator.String{isDuration},
			},
		},
	}
}

// maxReadyUnits bounds ready.units.
const maxReadyUnits = 100

var readyTypes = typesOf(readyAttribute().Attributes)

func (*vmReady) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"ready": readyAttribute()}
}

func (b *vmReady) validate() diag.Diagnostics {
	checks, ok := b.Ready.Attributes()["health_checks"].(types.Map)
	if !ok {
		return nil
	}
	return validateHealthChecks(path.Root("ready").AtName("health_checks"), checks)
}

func (b *vmReady) toSpec(ctx context.Context, spec *vm.Spec) diag.Diagnostics {
	if unset(b.Ready) {
		return nil
	}
	var model readyModel
	diags := b.Ready.As(ctx, &model, basetypes.ObjectAsOptions{UnhandledUnknownAsEmpty: true})
	spec.Ready = vm.Readiness{
		Checks: healthChecks(ctx, model.HealthChecks, &diags), Address: model.Address.ValueBool(),
		Limit: duration(model.Timeout),
	}
	for _, unit := range texts(ctx, model.Units, &diags) {
		spec.Ready.Checks = append(spec.Ready.Checks,
			&agentapi.HealthCheck{Name: unit, Kind: &agentapi.HealthCheck_Unit{Unit: unit}})
	}
	return diags
}

// fromVM leaves the attribute as it is: a VM does not know what applies wait for.
func (b *vmReady) fromVM(context.Context, *vm.VM) diag.Diagnostics {
	if b.Ready.IsNull() || b.Ready.IsUnknown() {
		b.Ready = types.ObjectNull(readyTypes)
	}
	return nil
}

func (b *vmReady) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmReady, vmNames().configurable) {
		change.definition = true
	}
}

package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmLastRefresh is the report of the last refresh.
type vmLastRefresh struct {
	computedOnly

	LastRefresh types.Object `tfsdk:"last_refresh"`
}

var _ vmBlock = (*vmLastRefresh)(nil)

// lastRefreshModel is the attribute last_refresh.
type lastRefreshModel struct {
	Committed  bool                        `tfsdk:"committed"`
	Error      types.String                `tfsdk:"error"`
	Level      string                      `tfsdk:"level"`
	DeltaBytes int64                       `tfsdk:"delta_bytes"`
	Restarted  map[string]unitRestartModel `tfsdk:"restarted"`
	Conflicts  []string                    `tfsdk:"conflicts"`
	Started    []string                    `tfsdk:"started"`
}

// unitRestartModel is one value of the attribute last_refresh.restarted, whose key is the unit.
type unitRestartModel struct {
	Level          string       `tfsdk:"level"`
	InterruptionMS float64      `tfsdk:"interruption_ms"`
	Error          types.String `tfsdk:"error"`
}

func lastRefreshAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the last refresh by Terraform did; null if there was none. The data source `sharedos_vm` " +
			"has the details: what was left as it is, and the time of each step.",
		Attributes: map[string]schema.Attribute{
			"committed": schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether the VM runs the new " +
				"release. Otherwise the refresh was rolled back."},
			"error": computedText("Why the refresh was rolled back; null if it was not."),
			"level": computedText("Impact of the refresh."),
			"delta_bytes": schema.Int64Attribute{
				Computed: true,
				MarkdownDescription: "Bytes of the layers that the VM did not have before. They are attached, not " +
					"copied.",
			},
			"restarted": schema.MapNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Units that were interrupted, by their names.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"level": computedText("What happened to the unit."),
					"interruption_ms": schema.Float64Attribute{Computed: true, MarkdownDescription: "Milliseconds " +
						"from when the unit stopped until it was active again."},
					"error": computedText("Why the unit did not become active again; null if it did."),
				}},
			},
			"conflicts": computedTexts("Files in `/etc` that were changed both in the VM and in the release. The " +
				"VM's version was kept. Also what `refresh.purge` left because it was changed."),
			"started": computedTexts("Units that the release newly enabled and that were started, and those that were " +
				"not, with the reason."),
		},
	}
}

var lastRefreshTypes = typesOf(lastRefreshAttribute().Attributes)

func (*vmLastRefresh) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"last_refresh": lastRefreshAttribute()}
}

// fromVM keeps the report, which comes from the refresh and cannot be read back from the VM.
func (b *vmLastRefresh) fromVM(context.Context, *vm.VM) diag.Diagnostics {
	if b.LastRefresh.IsUnknown() {
		b.LastRefresh = types.ObjectNull(lastRefreshTypes)
	}
	return nil
}

// fromReport records what a refresh did.
func (b *vmLastRefresh) fromReport(ctx context.Context, report *agentapi.Report, deltaBytes int64) diag.Diagnostics {
	var diags diag.Diagnostics
	model := lastRefreshModel{
		Committed: report.GetCommitted(), Error: optionalText(report.GetError()),
		Level: levelName(report.GetImpact().GetLevel()), DeltaBytes: deltaBytes,
		Restarted: map[string]unitRestartModel{},
		Conflicts: guestTexts(report.GetConflicts()), Started: startTexts(report.GetStarts()),
	}
	for _, restart := range limited(report.GetRestarts()) {
		model.Restarted[guestText(restart.GetUnit())] = unitRestartModel{
			Level:          levelName(restart.GetLevel()),
			InterruptionMS: float64(restart.GetInterruptionUs()) / 1000, Error: optionalText(restart.GetError()),
		}
	}
	b.LastRefresh = object(ctx, lastRefreshTypes, model, &diags)
	diags.Append(conflictWarning(report)...)
	return diags
}

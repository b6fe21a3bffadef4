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
	From       string                      `tfsdk:"from"`
	To         string                      `tfsdk:"to"`
	Committed  bool                        `tfsdk:"committed"`
	Error      types.String                `tfsdk:"error"`
	Level      string                      `tfsdk:"level"`
	DeltaBytes int64                       `tfsdk:"delta_bytes"`
	EtcCarried int64                       `tfsdk:"etc_carried"`
	Restarted  map[string]unitRestartModel `tfsdk:"restarted"`
	Conflicts  []string                    `tfsdk:"conflicts"`
	Remaining  []string                    `tfsdk:"remaining"`
	Left       []string                    `tfsdk:"left"`
	Unchecked  []string                    `tfsdk:"unchecked"`
	Pending    []string                    `tfsdk:"pending"`
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
			"has the details: units that were left alone, and the time of each step.",
		Attributes: map[string]schema.Attribute{
			"from": computedText("Id of the base release before the refresh."),
			"to":   computedText("Id of the base release that the VM was to be moved to."),
			"committed": schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether the VM runs the new " +
				"release. Otherwise the refresh was rolled back."},
			"error": computedText("Why the refresh was rolled back; null if it was not."),
			"level": computedText("Impact of the refresh."),
			"delta_bytes": schema.Int64Attribute{
				Computed: true,
				MarkdownDescription: "Bytes of the layers that the VM did not have before. They are attached, not " +
					"copied.",
			},
			"etc_carried": schema.Int64Attribute{Computed: true, MarkdownDescription: "Number of files in `/etc` " +
				"that were updated to the version in the release."},
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
				"VM's version was kept."),
			"remaining": computedTexts("Processes that still ran old code when the refresh ended, whichever refresh " +
				"brought the new code. The attribute `remaining` of the VM has those of now."),
			"left": computedTexts("Units that `refresh.policy` left alone, with the reason. They run old code " +
				"until you restart them."),
			"unchecked": computedTexts("Health checks that already failed before the refresh, with the reason. " +
				"Their results were ignored."),
			"pending": computedTexts("Changes that were still waiting for a power-off and start when the refresh " +
				"ended."),
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
		From: guestText(report.GetFrom().GetBase()), To: guestText(report.GetTo().GetBase()),
		Committed: report.GetCommitted(), Error: optionalText(report.GetError()),
		Level: levelName(report.GetImpact().GetLevel()), DeltaBytes: deltaBytes, EtcCarried: report.GetEtcCarried(),
		Restarted: map[string]unitRestartModel{},
		Conflicts: guestTexts(report.GetConflicts()), Remaining: guestTexts(report.GetRemaining()),
		Left: guestTexts(report.GetLeft()), Unchecked: guestTexts(report.GetUnchecked()),
		Pending: guestTexts(report.GetPending()), Started: startTexts(report.GetStarts()),
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

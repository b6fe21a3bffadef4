package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
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
	Timeline   string                      `tfsdk:"timeline"`
}

// unitRestartModel is one value of the attribute last_refresh.restarted, whose key is the unit.
type unitRestartModel struct {
	Level          string       `tfsdk:"level"`
	InterruptionMS float64      `tfsdk:"interruption_ms"`
	Error          types.String `tfsdk:"error"`
}

// stepModel is one step of a refresh.
type stepModel struct {
	Step string  `tfsdk:"step"`
	MS   float64 `tfsdk:"ms"`
}

func lastRefreshAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the last refresh by Terraform did; null if there was none. The data source `sharedos_vm` " +
			"has the details: what was left as it is, and the time of each step and each unit.",
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
			"started": computedTexts(
				"Units that the release newly enabled and that were started, and those that were " +
					"not, with the reason."),
			"timeline": computedText(
				"The steps of the refresh in their order, each with the milliseconds that it took, such as `stage 12 " +
					"ms, verify 340 ms, assess 15 ms, swap 0.4 ms, etc 4.1 ms, restart 900 ms, check 1000 ms, commit " +
					"20 ms`. For programs, the data source has them as `timeline`."),
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

// maxTimeline is how many steps a timeline has, and maxStep how many bytes the name of one has. A
// refresh has at most a dozen steps.
const maxTimeline, maxStep = 20, 40

// timelineOf returns the steps of a refresh in their order. The agent names them.
func timelineOf(report *agentapi.Report) []stepModel {
	steps := report.Timeline()
	timeline := make([]stepModel, 0, min(len(steps), maxTimeline))
	for _, one := range steps[:cap(timeline)] {
		timeline = append(timeline, stepModel{plain.Cut(guestText(one.GetStep()), maxStep), one.Milliseconds()})
	}
	return timeline
}

// timelineText is a timeline in one line, since a plan prints each element of a list whenever the list becomes unknown.
func timelineText(report *agentapi.Report) string {
	var steps []string
	for _, one := range timelineOf(report) {
		digits := 0
		if one.MS < 10 {
			digits = 1
		}
		steps = append(steps, fmt.Sprintf("%s %.*f ms", one.Step, digits, one.MS))
	}
	return strings.Join(steps, ", ")
}

// fromReport records what a refresh did.
func (b *vmLastRefresh) fromReport(ctx context.Context, report *agentapi.Report, deltaBytes int64) diag.Diagnostics {
	var diags diag.Diagnostics
	model := lastRefreshModel{
		Committed: report.GetCommitted(), Error: optionalText(report.GetError()),
		Level: levelName(report.GetImpact().GetLevel()), DeltaBytes: deltaBytes,
		Restarted: map[string]unitRestartModel{},
		Conflicts: guestTexts(report.GetConflicts()), Started: startTexts(report.GetStarts()),
		Timeline: timelineText(report),
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

package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmImpact is what a change of a VM interrupts.
type vmImpact struct {
	computedOnly

	Impact types.Object `tfsdk:"impact"`
}

var _ vmBlock = (*vmImpact)(nil)

// impactModel is the attribute impact.
type impactModel struct {
	Level    string            `tfsdk:"level"`
	Units    []unitImpactModel `tfsdk:"units"`
	Reasons  []string          `tfsdk:"reasons"`
	Left     []string          `tfsdk:"left"`
	Sessions []string          `tfsdk:"sessions"`
}

// unitImpactModel is one value of the attribute impact.units.
type unitImpactModel struct {
	Unit     string   `tfsdk:"unit"`
	Level    string   `tfsdk:"level"`
	Reason   string   `tfsdk:"reason"`
	Paths    []string `tfsdk:"paths"`
	Packages []string `tfsdk:"packages"`
}

func impactAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the last planned change of the stack interrupts, assessed by the agent while planning. Unknown while the release " +
			"is not known or the agent does not answer; null for a VM whose stack never changed.",
		Attributes: map[string]schema.Attribute{
			"level": computedText("`none`, `reload`, `restart`, `soft_reboot`, `kexec` or `reboot`."),
			"units": schema.ListNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Units that use what changes.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"unit":     computedText("Name of the unit."),
					"level":    computedText("What happens to it."),
					"reason":   computedText("Why."),
					"paths":    computedTexts("Files that it uses and that change, at most 20 of them."),
					"packages": computedTexts("Debian packages that these files are from."),
				}},
			},
			"reasons":  computedTexts("Why more than a restart of units is needed."),
			"left":     computedTexts("Units that use what changes and that `refresh.policy` leaves alone, with the reason."),
			"sessions": computedTexts("Processes of users' sessions that use what changes. They are never ended."),
		},
	}
}

var impactTypes = typesOf(impactAttribute().Attributes)

func (*vmImpact) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"impact": impactAttribute()}
}

// fromVM keeps the impact: it is of a change, not of a VM.
func (b *vmImpact) fromVM(context.Context, *vm.VM) diag.Diagnostics {
	if b.Impact.IsUnknown() {
		b.Impact = types.ObjectNull(impactTypes)
	}
	return nil
}

// fromImpact sets the attribute to an assessment; null if there is none, because nothing that runs changes.
func (b *vmImpact) fromImpact(ctx context.Context, impact *agentapi.Impact) (diags diag.Diagnostics) {
	if impact == nil {
		b.Impact = types.ObjectNull(impactTypes)
		return nil
	}
	model := impactModel{
		Level: levelName(impact.GetLevel()), Units: []unitImpactModel{}, Reasons: guestTexts(impact.GetReasons()),
		Left: guestTexts(impact.GetLeft()), Sessions: guestTexts(impact.GetSessions()),
	}
	for _, unit := range limited(impact.GetUnits()) {
		model.Units = append(model.Units, unitImpactModel{
			Unit: guestText(unit.GetUnit()), Level: levelName(unit.GetLevel()), Reason: guestText(unit.GetReason()),
			Paths: guestTexts(unit.GetPaths()), Packages: guestTexts(unit.GetPackages()),
		})
	}
	b.Impact = object(ctx, impactTypes, model, &diags)
	return diags
}

// levels of impact, smallest first.
var levels = []agentapi.Level{
	agentapi.Level_NONE, agentapi.Level_RELOAD, agentapi.Level_RESTART,
	agentapi.Level_SOFT_REBOOT, agentapi.Level_KEXEC, agentapi.Level_REBOOT,
}

// levelName is the user's word for a level: "soft_reboot". A level of an agent that this provider does not know is "unknown".
func levelName(level agentapi.Level) string {
	if !slices.Contains(levels, level) {
		return "unknown"
	}
	return strings.ToLower(level.String())
}

// levelNames are the words for all levels.
func levelNames() []string {
	names := make([]string, len(levels))
	for i, level := range levels {
		names[i] = levelName(level)
	}
	return names
}

// levelOf returns the level of a name; LEVEL_UNSPECIFIED if there is none.
func levelOf(name string) agentapi.Level {
	for _, level := range levels {
		if levelName(level) == name {
			return level
		}
	}
	return agentapi.Level_LEVEL_UNSPECIFIED
}

// done is what an apply interrupts: nothing, if the change lies above the strategy.
func done(impact *agentapi.Impact) *agentapi.Impact {
	if impact.GetStrategy() != vm.NextBoot {
		return impact // also if there is none
	}
	reasons := []string{fmt.Sprintf("it takes %s, which refresh.strategy does not reach: the new stack runs from the next power-off and start on",
		levelName(impact.GetLevel()))}
	return &agentapi.Impact{Level: agentapi.Level_NONE, Reasons: append(reasons, impact.GetReasons()...), ChangedPaths: impact.GetChangedPaths()}
}

// tooLarge says why an impact is refused.
func tooLarge(name string, impact *agentapi.Impact, allowed string) diag.Diagnostics {
	return failedAt(path.Root("refresh").AtName("max_impact"), failure{
		do: "change", object: vmName(name),
		err:  fmt.Errorf("the impact is %s, and refresh.max_impact allows %s:%s", levelName(impact.GetLevel()), allowed, because(impact)),
		next: "Nothing was changed. " + allowing(impact) + fmt.Sprintf(", or refresh.strategy to %q to have a changed base run from the next start on.", vm.NextBoot),
	})
}

// allowing says what to set to have an impact.
func allowing(impact *agentapi.Impact) string {
	level := levelName(impact.GetLevel())
	if impact.GetStrategy() == vm.NextBoot {
		return fmt.Sprintf("Set refresh.max_impact and refresh.strategy to %q to allow it", level)
	}
	return fmt.Sprintf("Set refresh.max_impact to %q to allow it", level)
}

// because lists the reasons of an impact, each on a line of its own.
func because(impact *agentapi.Impact) string {
	var lines []string
	for _, reason := range impact.GetReasons() {
		lines = append(lines, guestText(reason))
	}
	for _, unit := range impact.GetUnits() {
		line := guestText(unit.GetUnit()) + ": " + levelName(unit.GetLevel())
		if reason := guestText(unit.GetReason()); reason != "" {
			line += ", " + reason
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 {
		return " its agent names no reason"
	}
	const shown = 20
	if more := len(lines) - shown; more > 0 {
		lines = append(lines[:shown], fmt.Sprintf("and %d more", more))
	}
	return "\n  - " + strings.Join(lines, "\n  - ") + "\n"
}

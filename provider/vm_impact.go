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
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
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
	Level    string                     `tfsdk:"level"`
	Units    map[string]unitImpactModel `tfsdk:"units"`
	Reasons  []string                   `tfsdk:"reasons"`
	Left     []string                   `tfsdk:"left"`
	Sessions []string                   `tfsdk:"sessions"`
	// Starts are the units that the release enables. Remaining and Pending are what a live refresh leaves.
	Starts    []string `tfsdk:"starts"`
	Remaining []string `tfsdk:"remaining"`
	Pending   []string `tfsdk:"pending"`
}

// unitImpactModel is one value of the attribute impact.units, whose key is the unit.
type unitImpactModel struct {
	Level    string   `tfsdk:"level"`
	Reason   string   `tfsdk:"reason"`
	Paths    []string `tfsdk:"paths"`
	Packages []string `tfsdk:"packages"`
}

func impactAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the last planned change interrupts, as the agent assessed it during the plan. " +
			"Unknown while the release is unknown or the agent does not answer; null for a VM whose stack has never " +
			"changed.",
		Attributes: map[string]schema.Attribute{
			"level": computedText("Largest impact of the change: `none`, `reload`, `restart`, `soft_reboot`, `kexec` " +
				"or `reboot`."),
			"units": schema.MapNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Affected units, by their names: those that use files that change.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"level":    computedText("Impact on the unit."),
					"reason":   computedText("Why the unit is affected."),
					"paths":    computedTexts("Changed files that the unit uses, at most 20 of them."),
					"packages": computedTexts("Debian packages that these files belong to."),
				}},
			},
			"reasons": computedTexts(
				"Why restarting units is not enough, and what that drops of what was made by hand in the VM."),
			"left": computedTexts("Affected units that `refresh.policy` leaves alone, with the reason."),
			"sessions": computedTexts("Processes in user sessions that use files that change. They are never " +
				"terminated."),
			"starts": computedTexts("Units that the release newly enables, such as `acme.service, wanted by " +
				"multi-user.target`. They are started, as a package manager would do. A unit that is not started has " +
				"the reason."),
			"remaining": computedTexts("Processes that will run old code after the change, such as `dbus.service 412 " +
				"/usr/lib/x86_64-linux-gnu/libexpat.so.1`. They include those that an earlier refresh left."),
			"pending": computedTexts("What takes effect only later than the change: a new kernel, or code of units " +
				"that cannot be restarted in a running system."),
		},
	}
}

var impactTypes = typesOf(impactAttribute().Attributes)

func (*vmImpact) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"impact": impactAttribute()}
}

// fromVM keeps the impact, which describes a change and not the VM.
func (b *vmImpact) fromVM(context.Context, *vm.VM) diag.Diagnostics {
	if b.Impact.IsUnknown() {
		b.Impact = types.ObjectNull(impactTypes)
	}
	return nil
}

// fromImpact sets the attribute from an assessment. It is null if there is no assessment, because the change affects
// nothing that runs.
func (b *vmImpact) fromImpact(ctx context.Context, impact *agentapi.Impact) (diags diag.Diagnostics) {
	if impact == nil {
		b.Impact = types.ObjectNull(impactTypes)
		return nil
	}
	model := impactModel{
		Level: levelName(impact.GetLevel()), Units: map[string]unitImpactModel{},
		Reasons: guestTexts(impact.GetReasons()),
		Left:    guestTexts(impact.GetLeft()), Sessions: guestTexts(impact.GetSessions()),
		Starts: startTexts(impact.GetStarts()), Remaining: guestTexts(impact.GetRemaining()),
		Pending: guestTexts(impact.GetPending()),
	}
	for _, unit := range limited(impact.GetUnits()) {
		model.Units[guestText(unit.GetUnit())] = unitImpactModel{
			Level: levelName(unit.GetLevel()), Reason: guestText(unit.GetReason()),
			Paths: guestTexts(unit.GetPaths()), Packages: guestTexts(unit.GetPackages()),
		}
	}
	b.Impact = object(ctx, impactTypes, model, &diags)
	return diags
}

// startTexts describes units that a release enables, and how it went if they were started.
func startTexts(starts []*agentapi.UnitStart) []string {
	texts := make([]string, 0, len(starts))
	for _, start := range starts {
		text := start.GetUnit() + ", wanted by " + start.GetWantedBy()
		switch {
		case start.GetError() != "":
			text += ": it failed: " + start.GetError()
		case start.GetSkipped() != "":
			text += ": not started: " + start.GetSkipped()
		}
		texts = append(texts, text)
	}
	return guestTexts(texts)
}

// failedStarts describes the units that failed at their first start.
func failedStarts(report *agentapi.Report) []string {
	return startTexts(slices.DeleteFunc(slices.Clone(report.GetStarts()),
		func(s *agentapi.UnitStart) bool { return s.GetError() == "" }))
}

// levels of impact, smallest first.
var levels = []agentapi.Level{
	agentapi.Level_NONE, agentapi.Level_RELOAD, agentapi.Level_RESTART,
	agentapi.Level_SOFT_REBOOT, agentapi.Level_KEXEC, agentapi.Level_REBOOT,
}

// levelName is the name of a level in the configuration: "soft_reboot". A level of a newer agent is "unknown".
func levelName(level agentapi.Level) string {
	if !slices.Contains(levels, level) {
		return "unknown"
	}
	return strings.ToLower(level.String())
}

// levelNames are the names of all levels.
func levelNames() []string {
	names := make([]string, len(levels))
	for i, level := range levels {
		names[i] = levelName(level)
	}
	return names
}

// mayRestartSystem reports whether the planned impact, or one that is allowed as long as it is not
// known, restarts the system and with it the network.
func (m *vmModel) mayRestartSystem(ctx context.Context) (bool, diag.Diagnostics) {
	if m.Impact.IsNull() {
		return false, nil
	}
	if m.Impact.IsUnknown() {
		policy, diags := m.policy(ctx)
		return levelOf(policy.MaxImpact.ValueString()) > agentapi.Level_RESTART, diags
	}
	level, ok := m.Impact.Attributes()["level"].(types.String)
	return ok && levelOf(level.ValueString()) > agentapi.Level_RESTART, nil
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

// reached is the impact of an apply. A change above the strategy interrupts nothing: it takes effect at the next start.
func reached(impact *agentapi.Impact) *agentapi.Impact {
	if impact.GetStrategy() != vm.NextBoot {
		return impact
	}
	postponed := fmt.Sprintf(
		"the change needs %s, and refresh.strategy allows less: the new stack takes effect at the "+
			"next power-off and start", levelName(impact.GetLevel()))
	return &agentapi.Impact{
		Level: agentapi.Level_NONE, Reasons: append([]string{postponed}, impact.GetReasons()...),
		ChangedPaths: impact.GetChangedPaths(), Pending: impact.GetPending(),
	}
}

// tooLarge is the error that refuses an impact.
func tooLarge(name string, impact *agentapi.Impact, allowed string) diag.Diagnostics {
	return failedAt(path.Root("refresh").AtName("max_impact"), failure{
		do: "change", object: vmName(name),
		err: fmt.Errorf("the impact is %s, and refresh.max_impact allows %s:%s", levelName(impact.GetLevel()),
			allowed, because(impact)),
		next: "Nothing was changed. " + allowing(impact) + fmt.Sprintf(", or refresh.strategy to %q to have the new "+
			"stack take effect at the next start.", vm.NextBoot),
	})
}

// allowing says which attributes have to be changed to allow an impact.
func allowing(impact *agentapi.Impact) string {
	level := levelName(impact.GetLevel())
	if impact.GetStrategy() == vm.NextBoot {
		return fmt.Sprintf("Set refresh.max_impact and refresh.strategy to %q to allow it", level)
	}
	return fmt.Sprintf("Set refresh.max_impact to %q to allow it", level)
}

// because lists the reasons of an impact. Those of the guest are on lines that are marked as the guest's.
func because(impact *agentapi.Impact) string {
	var ours string
	var lines []string
	for _, reason := range impact.GetReasons() {
		if slices.Contains(vm.Reasons, vm.Reason(reason)) {
			ours += "\n  - " + reason
		} else {
			lines = append(lines, reason)
		}
	}
	for _, unit := range impact.GetUnits() {
		line := guestText(unit.GetUnit()) + ": " + levelName(unit.GetLevel())
		if reason := guestText(unit.GetReason()); reason != "" {
			line += ", " + reason
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 && ours == "" {
		return " the agent gave no reason"
	}
	const shown = 20
	if more := len(lines) - shown; more > 0 {
		lines = append(lines[:shown], fmt.Sprintf("and %d more", more))
	}
	return ours + plain.Guest(lines...)
}

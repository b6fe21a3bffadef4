package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

var _ resource.ResourceWithModifyPlan = (*vmResource)(nil)

// ModifyPlan decides what a plan may promise of a VM: what stays is known, what the change touches is unknown, and
// what it would interrupt is asked of the agent.
func (r *vmResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return // to be destroyed
	}
	var config, plan, state vmModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	exists := !req.State.Raw.IsNull()
	if exists {
		resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if config.Hostname.IsNull() {
		plan.Hostname = plan.Name
	}
	if !exists || !plan.Name.Equal(state.Name) {
		plan.unknownComputed()
		plan.Impact, plan.LastRefresh = types.ObjectNull(impactTypes), types.ObjectNull(lastRefreshTypes)
	} else {
		unfinished, diags := isUnfinished(ctx, req.Private)
		resp.Diagnostics.Append(diags...)
		resp.Diagnostics.Append(r.planUpdate(ctx, &plan, state, unfinished)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
}

// planUpdate completes the plan of a VM that exists.
func (r *vmResource) planUpdate(ctx context.Context, plan *vmModel, state vmModel, unfinished bool) diag.Diagnostics {
	// Another text for the same size is no change.
	if plan.Memory.same(state.Memory) {
		plan.Memory = state.Memory
	}
	if plan.diskSize().same(state.diskSize()) {
		plan.Disk = state.Disk
	}
	fresh := r.connection.takeRead(state.UUID.ValueString())
	plan.carryComputed(state)
	diverged, diags := state.diverged(ctx, *plan)
	free, d := plan.unpluggable(ctx)
	if diags.Append(d...); diags.HasError() || plan.sameWish(state) && !diverged && !unfinished && !free {
		return diags
	}
	if have, want := state.diskSize(), plan.diskSize(); !want.IsUnknown() && want.Bytes() < have.Bytes() {
		return append(diags, failedAt(path.Root("disk").AtName("size"), failure{
			do: "plan", object: vmName(plan.Name.ValueString()),
			err:  fmt.Errorf("its private disk has %s and cannot shrink to %s", have.ValueString(), want.ValueString()),
			next: "Set disk.size to " + have.ValueString() + " or more. Data would be lost otherwise.",
		})...)
	}
	stack := diverged || unfinished || !plan.sameStackWish(state)
	hardware := !plan.sameHardware(state)
	power := !plan.Running.Equal(state.Running)
	if stack || power || hardware {
		plan.Stack = types.ObjectUnknown(stackTypes) // a start runs what was defined meanwhile
	}
	// Any update can bring this provider's own, and unplug what is held no more.
	plan.Agent, plan.HeldLayers = types.ObjectUnknown(agentTypes), types.ListUnknown(heldLayerType)
	if stack || power || hardware {
		plan.Pending = types.ListUnknown(types.StringType)
		plan.State = types.StringUnknown()
	}
	if stack {
		plan.LastRefresh = types.ObjectUnknown(lastRefreshTypes)
	}
	switch {
	case stack || hardware:
		diags.Append(r.planImpact(ctx, plan, state, hardware, fresh)...)
	case !power && !plan.diskSize().same(state.diskSize()):
		var d diag.Diagnostics
		plan.Impact, d = impactOf(ctx, &agentapi.Impact{Level: agentapi.Level_NONE, Reasons: []string{"the private disk grows while the VM runs"}})
		diags.Append(d...)
	}
	return diags
}

// planImpact fills in what the change interrupts, and fails the plan if that is more than the user allows.
func (r *vmResource) planImpact(ctx context.Context, plan *vmModel, state vmModel, hardware, fresh bool) diag.Diagnostics {
	plan.Impact = types.ObjectUnknown(impactTypes)
	if !plan.wishKnown() {
		return r.forget(ctx, state, fresh)
	}
	policy, diags := plan.policy(ctx)
	spec, d := plan.spec(ctx)
	if diags.Append(d...); diags.HasError() {
		return diags
	}
	switch {
	case !plan.Running.ValueBool() || !state.Running.ValueBool():
		plan.Impact = types.ObjectNull(impactTypes) // nothing runs that it could interrupt
		return diags
	case policy.Strategy.ValueString() == vm.NextBoot && !hardware:
		plan.Impact, d = impactOf(ctx, &agentapi.Impact{
			Level: agentapi.Level_NONE, Reasons: []string{"the strategy is next_boot: the new stack runs from the next start on"},
		})
		return append(diags, d...)
	}
	question := assessment{UUID: spec.UUID, From: state.Stack.String(), To: question(spec)}
	impact, known := (*agentapi.Impact)(nil), false
	if !fresh {
		impact, known = r.assessments().recall(ctx, question)
	}
	if !known {
		var err error
		impact, err = r.assess(ctx, spec)
		switch {
		case errors.Is(err, vm.ErrNotLive):
			return append(diags, notLive("plan", spec.Name, err)...)
		case errors.Is(err, errUnknownConfig), errors.Is(err, store.ErrNotFound):
			return append(diags, r.forget(ctx, state, fresh)...) // the release is not in the pool yet
		case err != nil:
			diags.AddAttributeWarning(path.Root("impact"), "Unable to assess what the change of "+vmName(spec.Name)+" interrupts",
				failure{err: err, next: fmt.Sprintf("Nothing is interrupted beyond refresh.max_impact, which is %q: its agent is asked again "+
					"before anything changes.", policy.MaxImpact.ValueString())}.detail())
			return append(diags, r.forget(ctx, state, fresh)...)
		}
		r.assessments().remember(ctx, question, impact)
	}
	if impact == nil {
		plan.Impact = types.ObjectNull(impactTypes)
		return diags
	}
	if impact.GetLevel() > levelOf(policy.MaxImpact.ValueString()) {
		return append(diags, tooLarge(spec.Name, impact, policy.MaxImpact.ValueString())...)
	}
	plan.Impact, d = impactOf(ctx, done(impact))
	return append(diags, d...)
}

func (r *vmResource) assess(ctx context.Context, spec vm.Spec) (*agentapi.Impact, error) {
	backend, err := r.connection.get(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return backend.VMs().Assess(ctx, spec)
}

// forget drops an earlier plan's assessment of the VM, so that an apply of this plan cannot take it for its own.
func (r *vmResource) forget(ctx context.Context, state vmModel, fresh bool) diag.Diagnostics {
	if fresh {
		r.assessments().forget(ctx, state.UUID.ValueString())
	}
	return nil
}

// tooLarge tells why an impact is refused.
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

// done is what an apply interrupts: nothing of what lies above the strategy.
func done(impact *agentapi.Impact) *agentapi.Impact {
	if impact.GetStrategy() != vm.NextBoot {
		return impact
	}
	reasons := []string{fmt.Sprintf("it takes %s, which refresh.strategy does not reach: the new stack runs from the next power-off and start on",
		levelName(impact.GetLevel()))}
	return &agentapi.Impact{Level: agentapi.Level_NONE, Reasons: append(reasons, impact.GetReasons()...), ChangedPaths: impact.GetChangedPaths()}
}

// notLive tells why a running VM cannot be moved to a release, and how it gets there.
func notLive(do, name string, err error) diag.Diagnostics {
	return failedAt(path.Root("base"), failure{
		do: do, object: vmName(name), err: err,
		next: fmt.Sprintf("The VM runs what it ran. Set refresh.strategy to %q to have it run this release when it is next powered off and started.", vm.NextBoot),
	})
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

// unknownComputed marks all that only an apply tells.
func (m *vmModel) unknownComputed() {
	m.UUID, m.State = types.StringUnknown(), types.StringUnknown()
	m.Stack, m.Agent = types.ObjectUnknown(stackTypes), types.ObjectUnknown(agentTypes)
	m.Impact, m.LastRefresh = types.ObjectUnknown(impactTypes), types.ObjectUnknown(lastRefreshTypes)
	m.Pending, m.HeldLayers = types.ListUnknown(types.StringType), types.ListUnknown(heldLayerType)
}

// carryComputed takes the computed attributes from an earlier state.
func (m *vmModel) carryComputed(from vmModel) {
	m.UUID, m.State, m.Stack, m.Agent = from.UUID, from.State, from.Stack, from.Agent
	m.Impact, m.LastRefresh, m.Pending, m.HeldLayers = from.Impact, from.LastRefresh, from.Pending, from.HeldLayers
}

// completeComputed takes from what was seen the computed attributes that the plan left open.
func (m *vmModel) completeComputed(seen vmModel) {
	text := func(planned *types.String, seen types.String) {
		if planned.IsUnknown() {
			*planned = seen
		}
	}
	object := func(planned *types.Object, seen types.Object) {
		if planned.IsUnknown() {
			*planned = seen
		}
	}
	text(&m.UUID, seen.UUID)
	text(&m.State, seen.State)
	object(&m.Stack, seen.Stack)
	object(&m.Agent, seen.Agent)
	object(&m.Impact, seen.Impact)
	object(&m.LastRefresh, seen.LastRefresh)
	if m.Pending.IsUnknown() {
		m.Pending = seen.Pending
	}
	if m.HeldLayers.IsUnknown() {
		m.HeldLayers = seen.HeldLayers
	}
}

// wishKnown reports whether all that a spec is made of is known.
func (m *vmModel) wishKnown() bool {
	for _, value := range []interface{ IsUnknown() bool }{
		m.Base, m.VCPUs, m.Memory, m.diskSize(), m.Hostname, m.Running,
	} {
		if value.IsUnknown() {
			return false
		}
	}
	for _, value := range []tfValue{m.Components, m.SSHAuthorizedKeys, m.Interfaces, m.Refresh} {
		terraform, err := value.ToTerraformValue(context.Background())
		if err != nil || !terraform.IsFullyKnown() {
			return false
		}
	}
	return true
}

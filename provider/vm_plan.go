package provider

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

var _ resource.ResourceWithModifyPlan = (*vmResource)(nil)

// ModifyPlan plans the computed attributes of a VM. Those that the change does not affect keep their values, those that
// it affects are unknown, and the agent is asked what the change would interrupt.
func (r *vmResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest,
	resp *resource.ModifyPlanResponse) {
	var config, plan vmModel
	var state *vmModel
	if !req.State.Raw.IsNull() {
		state = &vmModel{}
		resp.Diagnostics.Append(req.State.Get(ctx, state)...)
	}
	if req.Plan.Raw.IsNull() { // to be destroyed
		if state != nil {
			resp.Diagnostics.Append(state.keepProtected(ctx, "destroy", req.Private)...)
		}
		return
	}
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if state != nil {
		r.connection.noteState(state.UUID.ValueString())
	}
	replaced := state != nil && !plan.Name.Equal(state.Name)
	if replaced {
		if resp.Diagnostics.Append(state.keepProtected(ctx, "replace", req.Private)...); resp.Diagnostics.HasError() {
			return
		}
		state = nil // the plan is for a new VM that replaces the one in state; Terraform asks for it once more
	}
	if !replaced && !plan.Name.IsUnknown() {
		_, diags := r.connection.planName(ctx, vmName(plan.Name.ValueString()), state != nil, req.Private, resp.Private)
		if resp.Diagnostics.Append(diags...); diags.HasError() {
			return
		}
	}
	for _, block := range plan.blocks() {
		if block, ok := block.(vmBlockWithPlan); ok {
			block.completePlan(&config, state)
		}
	}
	if state != nil && plan.movedByRollout() {
		if resp.Diagnostics.Append(plan.keepable(plan.Name.ValueString(), state)...); resp.Diagnostics.HasError() {
			return
		}
	}
	if !replaced && (state == nil || plan.changeFrom(state) != (vmChange{})) {
		resp.Diagnostics.Append(r.preflight(ctx, &plan, state)...)
	}
	notes, key := r.connection.notes(), r.connection.noteKey(vmName(plan.Name.ValueString()))
	token, diags := token(ctx, req.Private)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	var applied *vmNote
	if note := (vmNote{}); notes.recall(ctx, key, token, &note) {
		applied = &note
	}
	var asked *assessment
	if state == nil {
		plan.Impact, plan.LastRefresh = types.ObjectNull(impactTypes), types.ObjectNull(lastRefreshTypes)
		plan.planState()
		resp.Diagnostics.Append(plan.planAddresses(ctx)...)
		target, _, diags := r.planStack(ctx, &plan, false)
		resp.Diagnostics.Append(diags...)
		resp.Diagnostics.Append(plan.willRun(ctx, target)...)
		plan.planAttached(nil)
	} else {
		unfinished, diags := isUnfinished(ctx, req.Private)
		resp.Diagnostics.Append(diags...)
		if applied != nil {
			asked = applied.Assessment
		}
		resp.Diagnostics.Append(r.planUpdate(ctx, &plan, state, unfinished, &asked)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(applied.sameEnd(ctx, &plan)...)
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
	if applied == nil && !resp.Plan.Raw.Equal(req.State.Raw) {
		note, diags := plan.noteOf(ctx, asked)
		resp.Diagnostics.Append(diags...)
		resp.Diagnostics.Append(notes.keep(ctx, key, token, note, resp.Private)...)
	}
}

// planUpdate completes the plan of a VM that exists. It asks the agent, unless *asked is the answer
// to the same question, and sets *asked.
func (r *vmResource) planUpdate(ctx context.Context, plan, state *vmModel, unfinished bool,
	asked **assessment) diag.Diagnostics {
	fresh := r.connection.takeRead(state.UUID.ValueString())
	plan.carryComputed(state)
	change := plan.changeFrom(state)
	diverged, unpluggable, diags := plan.leftover(ctx, state)
	mends, d := state.mendable(ctx)
	if diags.Append(d...); diags.HasError() ||
		!change.beyondLifeCycle() && !diverged && !unpluggable && !unfinished && !mends {
		return diags
	}
	if have, want := state.diskSize(), plan.diskSize(); !want.IsUnknown() && want.Bytes() < have.Bytes() {
		return append(diags, failedAt(path.Root("disk").AtName("size"), failure{
			do: "plan", object: vmName(plan.Name.ValueString()),
			err:  fmt.Errorf("its private disk has %s and cannot shrink to %s", have.ValueString(), want.ValueString()),
			next: "Set disk.size to " + have.ValueString() + " or more. Data would be lost otherwise.",
		})...)
	}
	if diags.Append(plan.refuseShrink(vmName(plan.Name.ValueString()), state)...); diags.HasError() {
		return diags
	}
	change.stack = change.stack || diverged || unfinished
	// Every update can replace the agent by the provider's own and detach layers that are no longer in use.
	plan.Agent, plan.HeldLayers = types.ObjectUnknown(agentTypes), types.ListUnknown(heldLayerType)
	if len(state.Faults.Elements()) > 0 {
		plan.Faults = types.ListUnknown(faultType)
	}
	var target *release.Stack
	built := true
	if change.stack || change.hardware || change.power {
		plan.Stack = types.ObjectUnknown(stackTypes) // a start boots the stack in the definition
		plan.planState()
		plan.Pending = types.ListUnknown(types.StringType)
		plan.Remaining, plan.Unreadable = types.ListUnknown(types.StringType), types.ListUnknown(types.StringType)
		var d diag.Diagnostics
		target, built, d = r.planStack(ctx, plan, true)
		if diags.Append(d...); diags.HasError() {
			return diags
		}
	}
	if change.configuration && len(state.Drift.Elements()) > 0 {
		plan.Drift = types.MapUnknown(types.StringType)
	}
	if change.stack {
		plan.LastRefresh = types.ObjectUnknown(lastRefreshTypes)
	}
	end := endUnknown
	if !built {
		plan.Impact = types.ObjectUnknown(impactTypes)
		diags.Append(r.forget(ctx, state, fresh)...)
	} else if change.stack || change.hardware ||
		(change.disk || change.disks || change.links || change.configuration || change.compute || change.nextBoot) &&
			!change.power {
		var d diag.Diagnostics
		end, d = r.planImpact(ctx, plan, state, change, fresh, asked)
		diags.Append(d...)
	} else if change.power {
		end = endMoved // it is off, or it starts with the stack in its definition
	}
	if diags.HasError() {
		return diags
	}
	restarts := false
	if change.stack {
		var d diag.Diagnostics
		restarts, d = plan.mayRestartSystem(ctx)
		diags.Append(d...)
	}
	if change.hardware || change.links || change.power || unfinished || restarts ||
		!plan.Networks.Equal(state.Networks) {
		diags.Append(plan.planAddresses(ctx)...)
	}
	diags.Append(plan.endsWith(ctx, state, target, end, change)...)
	plan.planAttached(state)
	return diags
}

// updates reports whether the plan of a VM that exists does more than to change its life cycle:
// planUpdate leaves the agent unknown then.
func (m *vmModel) updates() bool { return m.Agent.IsUnknown() }

// leftover reports what an earlier apply has left to do, unless the strategy forbids to do it now: whether the VM runs
// another stack than its definition names, and whether a layer can be detached.
func (m *vmModel) leftover(ctx context.Context, state *vmModel) (diverged, unpluggable bool, diags diag.Diagnostics) {
	policy, diags := m.policy(ctx)
	if policy.Strategy.ValueString() == vm.NextBoot || !state.answering() {
		return false, false, diags
	}
	if m.Running.ValueBool() {
		var d diag.Diagnostics
		unpluggable, d = m.unpluggable(ctx)
		diags.Append(d...)
	}
	if state.Running.ValueBool() && !m.movedByRollout() {
		awaits, d := state.awaitsPowerCycle(ctx)
		if diags.Append(d...); awaits && m.Refresh.Equal(state.Refresh) {
			return false, unpluggable, diags // nothing has changed since the refresh was postponed to the next start
		}
		diverged, d = state.diverged(ctx)
		diags.Append(d...)
	}
	return diverged, unpluggable, diags
}

// planStack returns the stack that the base and the components of the VM make, and fails the plan if they make none. It
// is nil as long as it is not known. built is false if a layer of it has to be built first, and plans build nothing.
func (r *vmResource) planStack(ctx context.Context, plan *vmModel,
	exists bool) (_ *release.Stack, built bool, _ diag.Diagnostics) {
	known, err := fullyKnown(ctx, plan,
		map[string]bool{"base": true, "components": true, "prefer": true, "on_demand": true, "detach_on_demand": true})
	if err != nil || !known {
		return nil, true, nil // the apply checks it
	}
	spec := vm.Spec{Name: plan.Name.ValueString()}
	diags := plan.vmStack.toSpec(ctx, &spec)
	if diags.HasError() {
		return nil, true, diags
	}
	backend, err := r.connection.get(ctx)
	// Components with packages need a joining layer, which may have to be built: in the time that the apply would have
	// for it.
	timeout := "timeouts.create"
	limit, d := plan.Timeouts.Create(ctx, vmWriteTimeout)
	if exists {
		timeout = "timeouts.update"
		limit, d = plan.Timeouts.Update(ctx, vmWriteTimeout)
	}
	if diags.Append(d...); diags.HasError() {
		return nil, true, diags
	}
	building, done := r.connection.building(ctx)
	defer done()
	var checked vm.Checked
	if err == nil {
		bounded, cancel := context.WithTimeout(building, limit)
		defer cancel()
		checked, err = backend.VMs().Check(bounded, spec, r.connection.buildAtPlan())
	}
	var missing *vm.MissingReleaseError
	switch {
	case err == nil:
		return &checked.Stack, true, append(diags, unusedPreferences(spec.Name, checked.Unused)...)
	case errors.Is(err, publish.ErrNotCached):
		return nil, false, append(diags, stackNotBuilt(spec)...)
	case errors.Is(err, errUnknownConfig):
		return nil, true, diags
	case errors.As(err, &missing):
		// What this configuration is going to publish is in the cache, where it was found, or unknown.
		return nil, true, append(diags, noRelease(spec, missing, err)...)
	case errors.Is(err, store.ErrNotFound):
		return nil, true, diags // the apply checks it
	case errors.Is(err, compose.ErrStack):
		return nil, true, append(diags, noStack(ctx, backend, spec, err)...)
	}
	return nil, true, append(diags,
		failed(failure{do: "plan", object: vmName(spec.Name), step: "composing its stack", err: err,
			next: endedBuild(building, err, "the joining layer", timeout, limit)})...)
}

// end is the stack that a VM has at the end of an apply, as far as a plan knows it.
type end int

const (
	endUnknown end = iota
	// endMoved: the stack of its definition.
	endMoved
	// endLeft: the stack that it runs. That of its definition takes effect at the next power-off and start.
	endLeft
)

// planImpact plans the attribute impact, and fails the plan if the impact is larger than the user allows.
func (r *vmResource) planImpact(ctx context.Context, plan, state *vmModel, change vmChange, fresh bool,
	asked **assessment) (end, diag.Diagnostics) {
	plan.Impact = types.ObjectUnknown(impactTypes)
	known, err := plan.known(ctx)
	if err != nil {
		return endUnknown, failed(failure{do: "plan", object: vmName(plan.Name.ValueString()), err: err})
	}
	if !known {
		return endUnknown, r.forget(ctx, state, fresh)
	}
	policy, diags := plan.policy(ctx)
	have, d := state.spec(ctx)
	diags.Append(d...)
	spec, d := plan.spec(ctx)
	if diags.Append(d...); diags.HasError() {
		return endUnknown, diags
	}
	if change.configuration {
		spec.Overwrite = state.drifted()
	}
	move, err := vm.Plan(have, spec, change.stack)
	switch {
	case err != nil:
		return endUnknown, append(diags, failed(failure{do: "plan", object: vmName(spec.Name), err: err})...)
	case move.Guest == vm.GuestNone && !move.PowerCycle():
		return endMoved, append(diags,
			plan.fromImpact(ctx, nil)...) // the VM does not run, so there is nothing to interrupt
	case move.Guest == vm.GuestDeferred && !move.Configure:
		return endLeft, append(diags, plan.fromImpact(ctx, move.Impact())...)
	case !change.stack && !change.hardware && !move.Configure:
		return endUnknown, append(diags, plan.fromImpact(ctx, move.Impact())...) // its agent has nothing to assess
	}
	question := assessment{UUID: spec.UUID, From: state.Stack.String(), To: question(spec)}
	var impact *agentapi.Impact
	var recalled bool
	if !fresh {
		impact, recalled = r.assessments().recall(ctx, question)
		if !recalled && *asked != nil && (*asked).answers(question) {
			impact, recalled = (*asked).Impact, true
		}
	}
	if !recalled {
		impact, err = r.assess(ctx, spec)
		switch {
		case errors.Is(err, vm.ErrNotLive):
			return endUnknown, append(diags, notLive("plan", spec.Name, err)...)
		case errors.Is(err, errUnknownConfig), errors.Is(err, store.ErrNotFound):
			return endUnknown, append(diags, r.forget(ctx, state, fresh)...) // the release is not in the pool yet
		case err != nil:
			diags.AddAttributeWarning(path.Root("impact"),
				"Unable to assess what the change of "+vmName(spec.Name)+" interrupts",
				failure{err: err, next: fmt.Sprintf("The agent assesses the change again before anything is changed, "+
					"and the apply fails if the impact is larger than refresh.max_impact, which is %q.",
					policy.MaxImpact.ValueString())}.detail())
			return endUnknown, append(diags, r.forget(ctx, state, fresh)...)
		}
		r.assessments().remember(ctx, question, impact)
	}
	if diags.Append(failingChecks(spec.Name, impact.GetFailingChecks(),
		spec.Refresh.RequireChecks)...); diags.HasError() {
		return endUnknown, diags
	}
	diags.Append(unmatchedUnits(spec, impact)...)
	question.Impact = impact
	*asked = &question
	if impact.GetLevel() > levelOf(policy.MaxImpact.ValueString()) {
		return endUnknown, append(diags, tooLarge(spec.Name, impact, policy.MaxImpact.ValueString())...)
	}
	end := endMoved
	switch {
	case !change.stack && !change.hardware:
		end = endUnknown
	case impact.GetStrategy() == vm.NextBoot || move.Guest == vm.GuestDeferred:
		end = endLeft
	}
	return end, append(diags, plan.fromImpact(ctx, reached(impact))...)
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

// forget deletes the assessment of an earlier plan, so that the apply of this plan does not use it.
func (r *vmResource) forget(ctx context.Context, state *vmModel, fresh bool) diag.Diagnostics {
	if fresh {
		r.assessments().forget(ctx, state.UUID.ValueString())
	}
	return nil
}

// notLive is the error that a running VM cannot be moved to a release.
func notLive(do, name string, err error) diag.Diagnostics {
	return failedAt(path.Root("base"), failure{
		do: do, object: vmName(name), err: err,
	})
}

// notLiveNext is what to do about vm.ErrNotLive.
const notLiveNext = "Nothing was changed. Set refresh.strategy to \"next_boot\" to have the VM run this release when it " +
	"is next powered off and started."

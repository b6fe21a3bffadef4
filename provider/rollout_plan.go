package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// rolloutNote is what a plan said about a rollout.
type rolloutNote struct {
	Waves []waveImpactModel `json:"waves"`
	// Work is true if there was something to do.
	Work bool `json:"work"`
}

// ModifyPlan plans the waves, and asks the agents what the rollout would interrupt.
func (r *rolloutResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest,
	resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return
	}
	var plan rolloutModel
	var state *rolloutModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if !req.State.Raw.IsNull() {
		state = &rolloutModel{}
		resp.Diagnostics.Append(req.State.Get(ctx, state)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	changed := state == nil || !plan.sameConfiguration(state)
	known, err := plan.known(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "plan", object: "the rollout of " + plan.title(), err: err})...)
		return
	}
	if !known {
		plan.forget()
		plan.Impact = types.ListUnknown(waveImpactType)
		resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
		return
	}
	which := plan.Base.ValueString() + plan.VMs.String()
	if twice := r.connection.planRollout(which, texts(ctx, plan.VMs, &resp.Diagnostics)); len(twice) > 0 {
		resp.Diagnostics.Append(failedAt(path.Root("vms"), failure{do: "plan", object: "the rollout of " + plan.title(),
			err: fmt.Errorf("another rollout of this configuration moves %s, too",
				strings.Join(twice[:min(len(twice), 20)], ", ")), next: "Name each VM in one rollout."})...)
		return
	}
	notes, key := r.connection.notes(), r.connection.noteKey("rollout "+which)
	token, diags := token(ctx, req.Private)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	var note *rolloutNote
	if found := (rolloutNote{}); notes.recall(ctx, key, token, &found) {
		note = &found
	}
	applied := note != nil
	if !applied {
		if note, diags = r.foretell(ctx, &plan); note == nil || diags.HasError() {
			if resp.Diagnostics.Append(diags...); diags.HasError() {
				return
			}
			plan.forget()
			plan.Impact = types.ListUnknown(waveImpactType)
			resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
			return
		}
		resp.Diagnostics.Append(diags...)
	}
	if !changed && !note.Work {
		plan.Impact, plan.Progress, plan.Results, plan.Complete = state.Impact, state.Progress,
			state.Results, state.Complete
	} else {
		plan.forget()
		resp.Diagnostics.Append(plan.setImpact(ctx, note.Waves)...)
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
	if !applied && (changed || note.Work) {
		resp.Diagnostics.Append(notes.keep(ctx, key, token, note, resp.Private)...)
	}
}

func (m *rolloutModel) setImpact(ctx context.Context, waves []waveImpactModel) (diags diag.Diagnostics) {
	m.Impact, diags = types.ListValueFrom(ctx, waveImpactType, waves)
	return diags
}

// foretoldVM is what is foretold of a VM.
type foretoldVM struct {
	sight  rollout.Sight
	model  vmForetoldModel
	policy vm.RefreshPolicy
	impact *agentapi.Impact
	// skipped is true if it cannot be moved while it runs.
	skipped bool
	err     error
}

// foretell looks at the VMs and assesses what moving them interrupts. It returns nil if the host is
// not known yet. It fails if a VM allows less than it would have interrupted.
func (r *rolloutResource) foretell(ctx context.Context, plan *rolloutModel) (*rolloutNote, diag.Diagnostics) {
	target, diags := plan.target(ctx)
	waves, d := plan.waves(ctx)
	if diags.Append(d...); diags.HasError() {
		return nil, diags
	}
	backend, err := r.connection.get(ctx)
	if errors.Is(err, errUnknownConfig) {
		return nil, diags
	}
	if err != nil {
		return nil, append(diags, failed(failure{do: "plan", object: "the rollout of " + plan.title(), err: err})...)
	}
	note := &rolloutNote{}
	told := map[string]foretoldVM{}
	for _, wave := range waves {
		model := waveImpactModel{VMs: map[string]vmForetoldModel{}}
		found := make([]foretoldVM, len(wave))
		slots := make(chan struct{}, movedAtOnce)
		var calls sync.WaitGroup
		for i, name := range wave {
			slots <- struct{}{}
			calls.Go(func() {
				defer func() { <-slots }()
				found[i] = r.foretellVM(ctx, backend.VMs(), name, target)
			})
		}
		calls.Wait()
		for i, name := range wave {
			one := found[i]
			if one.err != nil {
				return nil, append(diags, failed(failure{do: "plan", object: "the rollout of " + plan.title(),
					err: fmt.Errorf("look at %s: %w", vmName(name), one.err)})...)
			}
			model.VMs[name], told[name] = one.model, one
			note.Work = note.Work || one.sight.Condition == rollout.Moved ||
				one.sight.Condition == rollout.Behind && !one.skipped
		}
		note.Waves = append(note.Waves, model)
	}
	return note, append(diags, plan.problems(waves, told)...)
}

// foretellVM looks at a VM, and has it assess the change.
func (r *rolloutResource) foretellVM(ctx context.Context, vms vm.Interface, name string,
	target vm.Target) (told foretoldVM) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	found, err := r.connection.lately(ctx, vms, name)
	switch {
	case errors.Is(err, vm.ErrNotFound):
		told.sight.Condition, told.model = rollout.Missing, noted("there is no such VM yet")
		switch planned, ok := r.connection.plannedSpec(name); {
		case ok && !planned.Refresh.ByRollout:
			told.sight.Condition, told.model = rollout.Apart, noPart()
		case ok && planned.Target().Equal(target):
			told.model = hasIt() // once it is created
		}
		return told
	case errors.Is(err, hypervisor.ErrForeign):
		told.sight.Condition, told.model = rollout.Apart, noted("it is not a VM of this provider")
		return told
	case err != nil:
		told.err = err
		return told
	}
	told.sight = seen(found, target)
	if found.Rollout != nil {
		told.policy = found.Rollout.Policy
	}
	if planned, ok := r.connection.plannedSpec(name); ok {
		if told.policy = planned.Refresh; found.Rollout == nil &&
			planned.Refresh.ByRollout { // it takes part by the time of the rollout
			part := *found
			part.Rollout = &vm.Participation{Policy: planned.Refresh}
			told.sight = seen(&part, target)
		}
	}
	switch told.sight.Condition {
	case rollout.Apart:
		told.model = noPart()
		return told
	case rollout.Current:
		told.model = hasIt()
		return told
	case rollout.Moved:
		told.model = foretold(nil)
		*noteOn(&told.model) = "it has the release, and has to stay healthy"
		return told
	case rollout.Silent:
		told.model = noted("it does not answer: " + guestText(told.sight.Why))
		return told
	}
	told.impact, err = vms.AssessMove(ctx, name, target, &told.policy)
	switch {
	case errors.Is(err, vm.ErrNotLive):
		told.skipped, told.model = true, noted(guestText(err.Error()))
	case errors.Is(err, store.ErrNotFound):
		told.model = noted("the release is not in the pool yet, so it is assessed during the apply")
	case err != nil:
		told.model = noted("it could not be assessed: " + guestText(err.Error()))
	default:
		told.model = foretold(told.impact)
		if told.sight.Off {
			*noteOn(&told.model) = "it is off, and gets the release in its definition"
		}
	}
	return told
}

// noPart is what is foretold of a VM that takes no part.
func noPart() vmForetoldModel { return noted("it does not say refresh.by = \"rollout\"") }

// hasIt is what is foretold of a VM that has the release.
func hasIt() vmForetoldModel {
	model := foretold(nil)
	*noteOn(&model) = "it has the release"
	return model
}

// noteOn returns where to write a note.
func noteOn(model *vmForetoldModel) *string {
	model.Note = new(string)
	return model.Note
}

// problems fails for VMs that allow less than is foretold, and warns of those that cannot be moved.
func (m *rolloutModel) problems(waves [][]string, told map[string]foretoldVM) (diags diag.Diagnostics) {
	var large, unhealthy, refused, left, apart []string
	for _, wave := range waves {
		for _, name := range wave {
			one := told[name]
			allowed := one.policy.MaxImpact
			if allowed == agentapi.Level_LEVEL_UNSPECIFIED {
				allowed = agentapi.Level_RESTART
			}
			for _, check := range one.impact.GetFailingChecks() {
				if line := vmName(name) + ":" + strings.TrimSuffix(plain.Guest(check), "\n"); one.policy.RequireChecks {
					refused = append(refused, line)
				} else {
					unhealthy = append(unhealthy, line)
				}
			}
			switch {
			case one.impact.GetLevel() > allowed:
				large = append(large,
					fmt.Sprintf("%s: the impact is %s, and its refresh.max_impact allows %s:%s", vmName(name),
						levelName(one.impact.GetLevel()), levelName(allowed), because(one.impact)))
			case one.sight.Condition == rollout.Apart:
				apart = append(apart, vmName(name))
			case one.sight.Condition == rollout.Silent || one.skipped:
				left = append(left, vmName(name)+":"+
					strings.TrimSuffix(plain.Guest(*one.model.Note), "\n")) // a guest may have said a part of it
			}
		}
	}
	if len(large) > 0 {
		diags.Append(failedAt(path.Root("base"),
			failure{do: "roll out", object: m.title(), err: errors.New(fewLines(large)),
				next: "Nothing was changed. Raise refresh.max_impact of these VMs, or set their refresh.strategy to \"" +
					vm.NextBoot + "\" to have the release take effect at their next start."})...)
	}
	if len(refused) > 0 {
		diags.Append(failedAt(path.Root("vms"), failure{do: "roll out", object: m.title(),
			err:  errors.New("health checks fail now, and refresh.require_checks is set:\n" + fewLines(refused)),
			next: "Nothing was changed. Repair what they check, or the checks themselves."})...)
	}
	if len(unhealthy) > 0 {
		diags.AddAttributeWarning(path.Root("vms"), "Health checks fail before the rollout", fewLines(unhealthy)+
			"\n\nThey do not count in this rollout. Repair what they check, or the checks themselves. With refresh.require_checks = true, the VM is not moved instead.")
	}
	if len(apart) > 0 {
		diags.AddAttributeWarning(path.Root("vms"), "VMs do not take part in rollouts", fewLines(apart)+
			"\n\nThe rollout fails as long as they do not say refresh = { by = \"rollout\" }.")
	}
	if len(left) > 0 {
		diags.AddAttributeWarning(path.Root("vms"), fmt.Sprintf("%d VMs cannot be moved", len(left)), fewLines(left)+
			"\n\nThe rollout leaves them as they are. VMs that do not answer count as away (max_unavailable).")
	}
	return diags
}

// lately returns a VM as it was read in this plan, or reads it.
func (c *connection) lately(ctx context.Context, vms vm.Interface, name string) (*vm.VM, error) {
	c.mu.Lock()
	found := c.plans.found[name]
	c.mu.Unlock()
	if found != nil {
		return found, nil
	}
	return vms.Read(ctx, name)
}

// noteFound keeps a VM that was read, for a rollout that is planned later in this run.
func (c *connection) noteFound(found *vm.VM) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans.found == nil {
		c.plans.found = map[string]*vm.VM{}
	}
	c.plans.found[found.Spec.Name] = found
}

// planRollout records which rollout moves VMs, and returns those that another one moves, too.
func (c *connection) planRollout(which string, names []string) (twice []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans.rollouts == nil {
		c.plans.rollouts = map[string]string{}
	}
	for _, name := range names {
		if other, ok := c.plans.rollouts[name]; ok && other != which {
			twice = append(twice, vmName(name))
			continue
		}
		c.plans.rollouts[name] = which
	}
	return twice
}

// plannedSpec is a VM as it is planned in this run, if it is to be changed or made.
func (c *connection) plannedSpec(name string) (vm.Spec, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	planned, ok := c.plans.vms[name]
	return planned.spec, ok
}

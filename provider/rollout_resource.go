package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
)

// rolloutResource is sharedos_rollout: a release that reaches many VMs in waves.
type rolloutResource struct{ connected }

var (
	_ resource.ResourceWithConfigure      = (*rolloutResource)(nil)
	_ resource.ResourceWithModifyPlan     = (*rolloutResource)(nil)
	_ resource.ResourceWithValidateConfig = (*rolloutResource)(nil)
)

// Metadata implements resource.Resource.
func (r *rolloutResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_rollout"
}

// Schema implements resource.Resource.
func (r *rolloutResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Brings a release to many VMs in waves, the canaries first, and stops by itself when " +
			"VMs do not stay healthy. What is done is read from the VMs: an apply that was cut off, or a rollout " +
			"that stopped, goes on where it was, and another release starts again at the canaries. Without a " +
			"resource of this type, each VM is moved by its own resource, all of them at once.\n\nDestroying a " +
			"rollout changes no VM.",
		Attributes: rolloutAttributes(ctx),
	}
}

// ValidateConfig implements resource.ResourceWithValidateConfig.
func (r *rolloutResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest,
	resp *resource.ValidateConfigResponse) {
	var config rolloutModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	known, err := fullyKnown(ctx, &config, map[string]bool{"waves": true})
	if resp.Diagnostics.HasError() || err != nil || !known || config.Waves.IsNull() {
		return
	}
	if err := rollout.CheckWaves(texts(ctx, config.Waves, &resp.Diagnostics)); err != nil {
		resp.Diagnostics.Append(failedAt(path.Root("waves"),
			failure{do: "use", object: "the waves of the rollout", err: err,
				next: `Give sizes that grow, such as ["1", "10%", "50%", "100%"].`})...)
	}
}

// Create implements resource.Resource.
func (r *rolloutResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan rolloutModel
	if resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...); resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Create(ctx, rolloutTimeout)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	diags = r.run(ctx, &plan, limit, "timeouts.create")
	if ctx.Err() != nil {
		// After an error, Terraform would replace the resource. It says by itself that the apply was interrupted.
		diags = asWarnings(diags)
	}
	resp.Diagnostics.Append(diags...)
	if plan.finished() {
		resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
		resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...) // what the plan noted is done
	}
}

// Update implements resource.Resource.
func (r *rolloutResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state rolloutModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if resp.Diagnostics.Append(req.State.Get(ctx, &state)...); resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Update(ctx, rolloutTimeout)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	if plan.Results.IsUnknown() {
		resp.Diagnostics.Append(r.run(ctx, &plan, limit, "timeouts.update")...)
	}
	if plan.finished() {
		resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
		resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
	}
}

// finished reports whether the outcome is known: a rollout that could not begin leaves the state as it was.
func (m *rolloutModel) finished() bool { return !m.Results.IsUnknown() && !m.Impact.IsUnknown() }

func asWarnings(diags diag.Diagnostics) (warnings diag.Diagnostics) {
	for _, one := range diags {
		warnings.AddWarning(one.Summary(), one.Detail())
	}
	return warnings
}

// run rolls out, and completes the plan with what became of the VMs.
func (r *rolloutResource) run(ctx context.Context, plan *rolloutModel, limit time.Duration,
	timeout string) diag.Diagnostics {
	fail := failure{do: "roll out", object: plan.title(), timeout: timeout}
	target, diags := plan.target(ctx)
	waves, d := plan.waves(ctx)
	if diags.Append(d...); diags.HasError() {
		return diags
	}
	progress := newProgress(ctx, plan.title())
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err != nil {
		fail.err, fail.step = err, progress.at()
		return append(diags, failed(fail)...)
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	work := &rollout.Rollout{
		Fleet: rolloutFleet{vms: backend.VMs(), target: target,
			tell: func(name, step string) { newProgress(ctx, vmName(name)).step(step) }},
		Clock: wallClock{}, Waves: waves, MaxUnavailable: int(plan.MaxUnavailable.ValueInt64()),
		MaxFailures: int(plan.MaxFailures.ValueInt64()),
		Soak:        duration(plan.Soak), OnFailure: onFailures[plan.OnFailure.ValueString()],
		Slots: r.connection.rolloutSlots(), Tell: progress.step,
	}
	outcome, err := work.Run(bounded)
	diags.Append(plan.fromOutcome(ctx, waves, outcome)...)
	if plan.Impact.IsUnknown() { // nobody knew it when the plan was made
		diags.Append(plan.setImpact(ctx, unforeseen(waves))...)
	}
	diags.Append(leftBehind(waves, outcome, plan.MaxFailures.ValueInt64())...)
	if err == nil {
		return diags
	}
	return append(diags, notRolledOut(fail, progress.at(), waves, outcome, err)...)
}

// notRolledOut says why a rollout ended early, and what the VMs run now.
func notRolledOut(fail failure, step string, waves [][]string, outcome rollout.Outcome, err error) diag.Diagnostics {
	fail.err, fail.step = err, step
	var halted *rollout.Halted
	switch {
	case errors.As(err, &halted):
		fail.step = ""
		var reasons strings.Builder
		for _, name := range halted.Failed[:min(len(halted.Failed), 5)] {
			reasons.WriteString("\n" + failedVM(name, outcome[name]))
		}
		fail.err = fmt.Errorf("%w%s", err, reasons.String())
		fail.next = whereItStands(halted, waves, outcome)
	case errors.Is(err, rollout.ErrApart):
		fail.next = "Nothing was changed. Set refresh = { by = \"rollout\" } for these VMs, or take them out of vms."
		return failedAt(path.Root("vms"), fail)
	case errors.Is(err, rollout.ErrUnavailable):
		fail.next = "Bring these VMs back, take them out of vms, or raise max_unavailable. Then apply again: the rollout goes on where it is."
		return failedAt(path.Root("max_unavailable"), fail)
	}
	return failedAt(path.Root("base"), fail)
}

// failedVM says why a VM failed.
func failedVM(name string, one *rollout.Result) string {
	text := whyOf(name, one)
	for _, check := range one.Failed {
		if check.Check != "" {
			text += "; a health check fails:" + plain.Guest(check.Check+": "+check.Why)
		}
	}
	return text
}

// whyOf says why a VM is in its state. What the guest says in that is on lines of its own already, which stay.
func whyOf(name string, one *rollout.Result) string {
	return vmName(name) + ": " + strings.TrimRight(plain.Cut(one.Why, plain.MaxGuest), "\n")
}

// leftBehind warns of VMs that do not have the release although the rollout was not stopped by them.
func leftBehind(waves [][]string, outcome rollout.Outcome, allowed int64) (diags diag.Diagnostics) {
	byState := map[rollout.State][]string{}
	notes := []string{}
	for _, name := range slices.Concat(waves...) {
		one := outcome[name]
		if one == nil {
			continue
		}
		switch {
		case one.State == rollout.Updated && one.Why != "":
			notes = append(notes, whyOf(name, one))
		case one.State != rollout.Failed || allowed > 0:
			byState[one.State] = append(byState[one.State], whyOf(name, one))
		}
	}
	var lines []string
	for _, state := range []rollout.State{rollout.Failed, rollout.Left, rollout.Mute, rollout.Gone} {
		lines = append(lines, byState[state]...)
	}
	if len(lines) > 0 {
		diags.AddAttributeWarning(path.Root("results"),
			fmt.Sprintf("%d VMs do not have the release", len(lines)), fewLines(lines)+
				"\n\nA later apply moves those that answer and exist by then. Take VMs that are gone out of vms.")
	}
	if len(notes) > 0 {
		diags.AddAttributeWarning(path.Root("results"),
			"Something is left to do in VMs that have the release", fewLines(notes))
	}
	return diags
}

// fewLines joins lines, at most 20 of them.
func fewLines(lines []string) string {
	const shown = 20
	if more := len(lines) - shown; more > 0 {
		lines = append(slices.Clone(lines[:shown]), fmt.Sprintf("and %d more", more))
	}
	return plain.Cut(strings.Join(lines, "\n"), 2*plain.MaxGuest)
}

// Read implements resource.Resource. A rollout is nothing on the host: the next plan looks at its VMs.
func (r *rolloutResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	resp.State.Raw = req.State.Raw
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
}

// Delete implements resource.Resource. It changes no VM.
func (r *rolloutResource) Delete(context.Context, resource.DeleteRequest, *resource.DeleteResponse) {}

// rolloutSlots bounds how many VMs are moved at a time by all rollouts.
func (c *connection) rolloutSlots() chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slots == nil {
		c.slots = make(chan struct{}, movedAtOnce)
	}
	return c.slots
}

// unforeseen are waves of which nothing was foretold.
func unforeseen(waves [][]string) []waveImpactModel {
	all := make([]waveImpactModel, len(waves))
	for i, wave := range waves {
		all[i].VMs = map[string]vmForetoldModel{}
		for _, name := range wave {
			all[i].VMs[name] = noted("it was not known when the plan was made")
		}
	}
	return all
}

// rolloutNext is what to do after a rollout has stopped.
const rolloutNext = "Mend the release and apply: a new one starts again at the first wave. Or apply again to try this one once more where it stopped."

// whereItStands says what the VMs run after a rollout has stopped, and how it goes on.
func whereItStands(halted *rollout.Halted, waves [][]string, outcome rollout.Outcome) string {
	untouched, back := 0, 0
	for _, wave := range waves {
		for _, name := range wave {
			switch one := outcome[name]; {
			case one == nil || one.State == rollout.Waits:
				untouched++
			case one.State == rollout.Failed || one.State == rollout.Returned:
				back++
			}
		}
	}
	return fmt.Sprintf(
		"%d VMs have what they ran before again, unless it says otherwise above, %d were never touched, and %d have the new release. "+
			rolloutNext, back, untouched, len(halted.Kept))
}

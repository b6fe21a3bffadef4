package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-log/tflog"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
)

var _ resource.ResourceWithModifyPlan = (*baseResource)(nil)

// ModifyPlan plans the computed attributes. If no input of the source changed, they stay as they are in
// state. If an input changed, the release is built into the cache, so that they are known. They are unknown if the
// provider is not to build while planning, or if an input is unknown.
func (r *releaseResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest,
	resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return // to be destroyed
	}
	plan := r.kind.new()
	resp.Diagnostics.Append(req.Plan.Get(ctx, plan)...)
	var state released // nil for an object that is new
	if !req.State.Raw.IsNull() {
		state = r.kind.new()
		resp.Diagnostics.Append(req.State.Get(ctx, state)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if state != nil && !plan.fields().Name.Equal(state.fields().Name) {
		return // the object will be replaced, and Terraform plans it again as a new one
	}
	exists := state != nil
	if diags := r.planOwned(ctx, plan.fields().Name, exists, req.Private, resp.Private); diags.HasError() {
		resp.Diagnostics.Append(diags...)
		return
	}
	if err := forget(ctx, plan); err != nil {
		resp.Diagnostics.Append(failed(failure{do: "plan", object: objectOf(plan), err: err})...)
		return
	}
	notes, key := r.connection.notes(), r.connection.noteKey(objectOf(plan))
	token, diags := token(ctx, req.Private)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	var applied *releaseNote
	if note := (releaseNote{}); notes.recall(ctx, key, token, &note) {
		applied = &note
	}
	read, diags := r.planSource(ctx, plan, state, applied, req.Private)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, plan)...)
	// Where the command of Terraform is not known, it may be a destroy, which drops this plan.
	if exists && r.connection.invocation().command != "" && !resp.Plan.Raw.Equal(req.State.Raw) {
		_, _, diags := r.claim(ctx, plan.fields().Name.ValueString(), "plan", req.Private, nil)
		resp.Diagnostics.Append(diags...)
	}
	if applied == nil && !resp.Plan.Raw.Equal(req.State.Raw) {
		note := noteOf(plan, state)
		note.Fingerprint, note.Inputs = read.fingerprint, read.inputs
		resp.Diagnostics.Append(notes.keep(ctx, key, token, note, resp.Private)...)
	}
}

// readSource identifies a source that was read; zero if none was.
type readSource struct {
	fingerprint string
	inputs      map[string]string
}

// planSource fills in what is known about the release that results from the source, and identifies the source if it was
// read. It fails if this is not what the plan said that is being applied; applied is nil while planning.
func (r *releaseResource) planSource(ctx context.Context, plan, state released, applied *releaseNote,
	private privateState) (read readSource, _ diag.Diagnostics) {
	if !hasSource(plan) {
		return read, keepReleases(plan, state)
	}
	known, err := sourceKnown(ctx, plan)
	if err != nil {
		return read, failed(failure{do: "plan", object: objectOf(plan), err: err})
	}
	fields := plan.fields()
	if !known || fields.Name.IsUnknown() || !plan.settled() || !setKnown(fields.SharedSecrets) {
		return read, nil
	}
	applied.repeat(fields)
	in, diags := inputOf(ctx, plan, r.connection.cacheDir())
	if diags.HasError() {
		return read, diags
	}
	damaged, d := isDamaged(ctx, private)
	if diags.Append(d...); diags.HasError() {
		return read, diags
	}
	if state != nil && !damaged && sameSource(plan, state) {
		unchanged, d := r.sameInput(ctx, plan, in, state, private)
		if diags.Append(d...); unchanged || diags.HasError() {
			carry(plan, state)
			return read, append(diags, applied.sameRelease(plan, in)...)
		}
	}
	backend, err := r.connection.planned(ctx)
	unknown := errors.Is(err, errUnknownConfig)
	switch {
	case err == nil:
		if diags.Append(plan.check(ctx, backend)...); diags.HasError() {
			return read, diags
		}
	case !unknown:
		return read, append(diags, failed(failure{do: "plan", object: objectOf(plan), err: err})...)
	}
	if err := fields.pin(ctx, in.opened); err != nil {
		return read, append(diags, unreadable(plan, err)...)
	}
	if unknown {
		return read, diags
	}
	if diags.Append(applied.sameSource(ctx, r.kind.publisher(backend), plan, in)...); diags.HasError() {
		return read, diags
	}
	prepared, d := r.prepare(ctx, backend, plan, state, in)
	if diags.Append(d...); prepared == nil {
		return read, diags
	}
	diags.Append(take(ctx, plan, backend, prepared, state, r.connection.chain())...)
	read.fingerprint = prepared.Fingerprint
	if applied == nil {
		// They only explain an error later, so a failure to read them is none.
		if read.inputs, err = r.kind.publisher(backend).Inputs(ctx, in.Spec); err != nil {
			tflog.Warn(ctx, "unable to describe the inputs of a release", map[string]any{"error": err.Error()})
		}
	}
	return read, append(diags, applied.sameRelease(plan, in)...)
}

// keepReleases plans an object without a source: nothing is published, and everything stays as it is.
func keepReleases(plan, state released) diag.Diagnostics {
	switch {
	case state == nil:
		return needsSource(plan, "create", "it does not exist yet")
	case !plan.settled() || !setKnown(plan.fields().SharedSecrets) || !plan.sameBesides(state) ||
		!plan.fields().SharedSecrets.Equal(state.fields().SharedSecrets):
		return needsSource(plan, "plan", "what its releases are made from has changed")
	case hasSource(state):
		// A source that became null by mistake would leave it without patches for ever.
		return needsSource(plan, "plan", "its source was removed, so that it would get no further release")
	}
	carry(plan, state)
	return nil
}

// prepare finds the release of a plan in the cache, or builds it there, in the time that the apply would have for it.
// Without an error it is nil if the plan is not to build it.
func (r *releaseResource) prepare(ctx context.Context, backend Backend, plan, state released,
	in input) (*publish.Prepared, diag.Diagnostics) {
	if r.connection.invocation().destroys {
		return nil, nil // what is planned now is dropped
	}
	if !r.connection.buildAtPlan() {
		prepared, err := r.kind.publisher(backend).PrepareCached(ctx, in.Spec)
		switch {
		case errors.Is(err, publish.ErrNotCached):
			return nil, notBuilt(plan)
		case err != nil:
			return nil, unreadable(plan, err)
		}
		return prepared, nil
	}
	timeout := "timeouts.create"
	limit, diags := plan.fields().Timeouts.Create(ctx, buildTimeout)
	if state != nil {
		timeout = "timeouts.update"
		limit, diags = plan.fields().Timeouts.Update(ctx, buildTimeout)
	}
	if diags.HasError() {
		return nil, diags
	}
	building, done := r.connection.building(ctx)
	defer done()
	bounded, cancel := context.WithTimeout(building, limit)
	defer cancel()
	began, progress := time.Now(), newProgress(ctx, objectOf(plan))
	prepared, err := r.kind.publisher(backend).Prepare(bounded, in.Spec, progress.part)
	if err == nil {
		progress.step(fmt.Sprintf("prepared release %s while planning, in %.1f s", prepared.ID,
			time.Since(began).Seconds()))
		return prepared, diags
	}
	return nil, append(diags, failedAt(chosen(plan).at(), failure{
		do: "plan", object: objectOf(plan), step: "reading its source (" + progress.at() + ")", err: err,
		next: endedBuild(building, err, "the release", timeout, limit),
	})...)
}

// endedBuild says what to do if a plan did not complete what it built in a context of connection.building: because of
// an interrupt, or since the time of the attribute timeout was up. It is empty for other errors.
func endedBuild(building context.Context, err error, what, timeout string, limit time.Duration) string {
	switch {
	case building.Err() != nil:
		return "The plan was interrupted while it built " + what + ". Nothing on the host was changed. Plan again."
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("It took longer than %s allows, which is %s. Nothing on the host was changed. "+
			"Plan again with a larger %s.", timeout, shortDuration(limit), timeout)
	}
	return ""
}

// notBuilt warns of what a plan costs that builds nothing.
func notBuilt(plan released) diag.Diagnostics {
	return diag.Diagnostics{diag.NewAttributeWarningDiagnostic(chosen(plan).at(),
		"This plan does not know the next release of "+objectOf(plan),
		"The release has to be built first, and build_at_plan is false in the provider block. So the plan does not "+
			"say which release the apply makes, what it changes, or what it interrupts in the VMs that run it. The "+
			"apply checks refresh.max_impact of each VM when it comes to that VM, so it can fail after others were "+
			"changed.\n\nRemove build_at_plan = false to have the plan build the release into the cache. The apply "+
			"then uses what the plan has built.")}
}

// privateState is the private state of an object, which Terraform stores for the provider.
type privateState interface {
	GetKey(ctx context.Context, key string) ([]byte, diag.Diagnostics)
}

// privateSource is the key of a publishedSource in private state.
const privateSource = "source"

// publishedSource records the input of the release in state, so that a plan on another machine, without the cache, can
// see that the input is unchanged.
type publishedSource struct {
	// Fingerprint identifies the inputs that a plan reads.
	Fingerprint string `json:"fingerprint"`
	Release     string `json:"release"`
}

// sameInput reports whether the release in state was made from the same input, as far as a plan can see.
func (r *releaseResource) sameInput(ctx context.Context, plan released, in input, state released,
	private privateState) (bool, diag.Diagnostics) {
	stored, diags := private.GetKey(ctx, privateSource)
	if diags.HasError() {
		return false, diags
	}
	var published publishedSource
	if len(stored) > 0 {
		if err := json.Unmarshal(stored, &published); err != nil {
			return false, append(diags,
				failed(failure{do: "read the private state of", object: objectOf(plan), err: err})...)
		}
	}
	fingerprint, err := localFingerprint(ctx, in.opened)
	if err != nil {
		return false, append(diags, unreadable(plan, err)...)
	}
	if fingerprint == "" {
		// The configuration is the same. Only a trigger has a remote source read again.
		return published.Fingerprint == "", diags
	}
	return published == publishedSource{fingerprint, state.fields().Release.ValueString()}, diags
}

// unreadable is the error that a source cannot be read while planning.
func unreadable(plan released, err error) diag.Diagnostics {
	return failedAt(chosen(plan).at(), failure{
		do: "plan", object: objectOf(plan), step: "reading its source", err: err,
	})
}

package provider

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
)

var _ resource.ResourceWithModifyPlan = (*baseResource)(nil)

// ModifyPlan plans the computed attributes of a base. If no input of the source changed, they stay as they are in
// state. If an input changed, they are known if the release can be determined without building it, and unknown
// otherwise.
func (r *baseResource) ModifyPlan(ctx context.Context, req resource.ModifyPlanRequest, resp *resource.ModifyPlanResponse) {
	if req.Plan.Raw.IsNull() {
		return // to be destroyed
	}
	var plan, state baseModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	exists := !req.State.Raw.IsNull()
	if exists {
		resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	if exists && !plan.Name.Equal(state.Name) {
		return // the base will be replaced, and Terraform plans it again as a new one
	}
	if err := plan.forget(ctx); err != nil {
		resp.Diagnostics.Append(failed(failure{do: "plan", object: baseName(plan.Name.ValueString()), err: err})...)
		return
	}
	var prior *baseModel
	if exists {
		prior = &state
	}
	resp.Diagnostics.Append(r.planSource(ctx, &plan, prior, req.Private)...)
	if resp.Diagnostics.HasError() {
		return
	}
	if exists && plan.Release.Equal(state.Release) && plan.retained() == state.retained() {
		plan.History = state.History // no release is added or deleted
	}
	resp.Diagnostics.Append(resp.Plan.Set(ctx, &plan)...)
}

// planSource fills in what is known about the release that results from the source.
func (r *baseResource) planSource(ctx context.Context, plan, state *baseModel, private privateState) diag.Diagnostics {
	known, err := plan.sourceKnown(ctx)
	if err != nil {
		return failed(failure{do: "plan", object: baseName(plan.Name.ValueString()), err: err})
	}
	if !known || plan.Name.IsUnknown() || plan.PinAccounts.IsUnknown() || !setKnown(plan.SharedSecrets) {
		return nil
	}
	spec, diags := plan.spec(ctx, r.connection.cacheDir())
	if diags.HasError() {
		return diags
	}
	if state != nil && plan.sameSource(state) {
		unchanged, d := r.sameInput(ctx, plan, spec, state, private)
		if diags.Append(d...); unchanged || diags.HasError() {
			plan.carry(state)
			return diags
		}
	}
	if err := plan.pin(ctx, spec.Source); err != nil {
		return append(diags, plan.unreadable(spec, err)...)
	}
	backend, err := r.connection.get(ctx)
	switch {
	case errors.Is(err, errUnknownConfig):
		return diags
	case err != nil:
		return append(diags, failed(failure{do: "plan", object: baseName(spec.Name), err: err})...)
	}
	prepared, err := backend.Publisher().PrepareCached(ctx, spec)
	switch {
	case errors.Is(err, publish.ErrNotCached):
		return diags
	case err != nil:
		return append(diags, plan.unreadable(spec, err)...)
	}
	return append(diags, plan.take(ctx, prepared, state, r.connection.chain())...)
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
func (r *baseResource) sameInput(ctx context.Context, plan *baseModel, spec publish.Spec, state *baseModel, private privateState) (bool, diag.Diagnostics) {
	stored, diags := private.GetKey(ctx, privateSource)
	if diags.HasError() {
		return false, diags
	}
	var published publishedSource
	if len(stored) > 0 {
		if err := json.Unmarshal(stored, &published); err != nil {
			return false, append(diags, failed(failure{do: "read the private state of", object: baseName(spec.Name), err: err})...)
		}
	}
	fingerprint, err := localFingerprint(ctx, spec.Source)
	if err != nil {
		return false, append(diags, plan.unreadable(spec, err)...)
	}
	if fingerprint == "" {
		// The configuration is the same. Only a trigger has a remote source read again.
		return published.Fingerprint == "", diags
	}
	return published == publishedSource{fingerprint, state.Release.ValueString()}, diags
}

// unreadable is the error that a source cannot be read while planning.
func (m *baseModel) unreadable(spec publish.Spec, err error) diag.Diagnostics {
	return failedAt(m.chosen().at(), failure{
		do: "plan", object: baseName(spec.Name), step: "reading its source", err: err,
	})
}

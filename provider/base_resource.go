package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// baseResource is sharedos_base: a named operating system with a history of releases.
type baseResource struct{ connected }

var (
	_ resource.ResourceWithConfigure      = (*baseResource)(nil)
	_ resource.ResourceWithImportState    = (*baseResource)(nil)
	_ resource.ResourceWithValidateConfig = (*baseResource)(nil)
)

// Metadata implements resource.Resource.
func (r *baseResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_base"
}

// Create implements resource.Resource. A Create that was interrupted after the upload finds its own release again. A
// base of this name with any other release belongs to another configuration.
func (r *baseResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan baseModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Create(ctx, baseWriteTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	var owner string
	published, diags := r.publish(ctx, &plan, nil, &owner, "create", limit)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(r.endCreate(ctx, plan.Name.ValueString(), owner, !diags.HasError())...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	resp.Diagnostics.Append(setOwner(ctx, resp.Private, owner)...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateSource, published)...)
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
}

// Update implements resource.Resource: it publishes the next release of the name.
func (r *baseResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state baseModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Update(ctx, baseWriteTimeout)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, r.connection.noteKey(baseName(plan.Name.ValueString())), []byte("null"))...)
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
	if resp.Diagnostics.HasError() {
		return
	}
	owner, _, diags := r.claim(ctx, plan.Name.ValueString(), "update", req.Private, resp.Private)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	if plan.sameSource(&state) && plan.Release.Equal(state.Release) {
		// No new release is planned, so the source is not read: only settings such as retain have changed.
		if plan.retained() != state.retained() {
			resp.Diagnostics.Append(r.updateSettings(ctx, &plan, limit)...)
		}
		if !resp.Diagnostics.HasError() {
			resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
		}
		return
	}
	published, diags := r.publish(ctx, &plan, &state, &owner, "update", limit)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateSource, published)...)
}

// publish builds and uploads the planned release and completes the plan with it. It returns the record of the source
// for private state. Without a state, the base is new, and it returns its owner.
func (r *baseResource) publish(ctx context.Context, plan, state *baseModel, owner *string, do string, limit time.Duration) ([]byte, diag.Diagnostics) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name := plan.Name.ValueString()
	progress := newProgress(ctx, baseName(name))
	fail := func(err error, next string) ([]byte, diag.Diagnostics) {
		return nil, failedAt(plan.chosen().at(), failure{
			do: do, object: baseName(name), step: progress.at(), timeout: "timeouts." + do, err: err, next: next,
		})
	}
	spec, diags := plan.spec(ctx, r.connection.cacheDir())
	if diags.HasError() {
		return nil, diags
	}
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err != nil {
		return fail(err, "")
	}
	if state == nil {
		begun, next, err := beginCreate(ctx, backend.Publisher(), name)
		if err != nil {
			return fail(err, next)
		}
		*owner = begun
	}
	progress.step("reading the source")
	if err := plan.pin(ctx, spec.Source); err != nil {
		return fail(err, "")
	}
	// The fingerprint is taken before the source is read, so that the next plan notices a change in between.
	fingerprint, err := localFingerprint(ctx, spec.Source)
	if err != nil {
		return fail(err, "")
	}
	prepared, err := backend.Publisher().Prepare(ctx, spec, progress.part)
	if err != nil {
		return fail(err, "")
	}
	if planned := plan.Release; !planned.IsUnknown() && planned.ValueString() != prepared.ID.String() {
		return fail(fmt.Errorf("%w: %v, planned as release %s, results in release %s now: %s", errOtherRelease, spec.Source,
			planned.ValueString(), prepared.ID, plan.differs(prepared)), planAgain)
	}
	if state == nil && !prepared.Unchanged && !prepared.Manifest.Previous.IsZero() {
		return fail(fmt.Errorf("a base of this name exists in the pool already, with release %s", prepared.Manifest.Previous),
			fmt.Sprintf("Nothing was uploaded. Choose another name, or import the existing base: run terraform import "+
				"with "+itsAddress+" and %s.", name))
	}
	if !prepared.Unchanged {
		prepared.Owner = *owner
		progress.step("uploading")
		if err := backend.Publisher().Publish(ctx, prepared, progress.part); err != nil {
			return fail(err, "")
		}
	}
	if plan.Release.IsUnknown() {
		taken := plan.take(ctx, prepared, state, r.connection.chain())
		if diags.Append(taken...); taken.HasError() {
			return nil, diags
		}
	}
	progress.step("deleting unreferenced releases")
	diags.Append(retain(ctx, backend, plan)...)
	published, err := json.Marshal(publishedSource{fingerprint, prepared.ID.String()})
	if err != nil {
		return fail(err, "")
	}
	return published, diags
}

// updateSettings applies a change of settings that needs no new release: it deletes the releases that the base is not to
// keep.
func (r *baseResource) updateSettings(ctx context.Context, plan *baseModel, limit time.Duration) diag.Diagnostics {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	backend, err := r.connection.get(ctx)
	if err != nil {
		return failed(failure{do: "update", object: baseName(plan.Name.ValueString()), step: "connecting", timeout: "timeouts.update", err: err})
	}
	return retain(ctx, backend, plan)
}

// Read implements resource.Resource. A base is removed from state only if the store says that it does not exist.
func (r *baseResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state baseModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	name := state.Name.ValueString()
	backend, err := r.connection.get(ctx)
	if errors.Is(err, errUnknownConfig) {
		resp.Diagnostics.AddWarning("Unable to refresh "+baseName(name), sentence(err)+" The state is unchanged.")
		return
	}
	if err == nil {
		other, diags := r.readOwner(ctx, backend.Publisher(), name, req.Private, resp.Private)
		if resp.Diagnostics.Append(diags...); other || diags.HasError() {
			return // the state is unchanged
		}
	}
	var id tree.Digest
	var manifest *release.Manifest
	if err == nil {
		id, manifest, err = backend.Publisher().Newest(ctx, name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		resp.State.RemoveResource(ctx)
		return
	case errors.Is(err, publish.ErrDamagedStore) && !state.Release.IsNull():
		resp.Diagnostics.AddAttributeWarning(path.Root("release"), "The newest release of "+baseName(name)+" is damaged", sentence(err)+
			" The state is unchanged. terraform destroy is possible nevertheless.")
		return
	case err != nil:
		resp.Diagnostics.Append(failed(failure{do: "read", object: baseName(name), err: err})...)
		return
	}
	resp.Diagnostics.Append(state.describe(ctx, id, manifest, r.connection.chain())...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
}

// Delete implements resource.Resource. A base that VMs use is not deleted.
func (r *baseResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state baseModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := state.Timeouts.Delete(ctx, deleteTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name := state.Name.ValueString()
	fail := func(step string, err error, next string) {
		resp.Diagnostics.Append(failed(failure{
			do: "delete", object: baseName(name), step: step, timeout: "timeouts.delete", err: err, next: next,
		})...)
	}
	backend, err := r.connection.get(ctx)
	if err != nil {
		fail("connecting", err, "")
		return
	}
	_, other, diags := r.claim(ctx, name, "delete", req.Private, nil)
	if other {
		resp.Diagnostics.AddWarning(baseName(name)+" was left alone", diags[0].Detail())
		return
	}
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	var inUse map[tree.Digest][]string
	err = backend.Publisher().Delete(ctx, name, func(ctx context.Context) (_ map[tree.Digest][]string, err error) {
		inUse, err = backend.VMs().InUse(ctx)
		return inUse, err
	})
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound):
	case errors.Is(err, store.ErrInUse):
		users, lookErr := r.users(ctx, backend.Publisher(), name, inUse)
		if lookErr != nil {
			fail("", errors.Join(err, lookErr), "Nothing was deleted.")
			return
		}
		fail("", err, fmt.Sprintf("Nothing was deleted. These VMs use it: %s. Destroy them first, or move them to "+
			"another base. %s", strings.Join(users, ", "), movingFirst))
	default:
		fail("deleting its releases", err, "")
	}
}

// users names the VMs that run a release of the base.
func (r *baseResource) users(ctx context.Context, publisher publish.Interface, name string, inUse map[tree.Digest][]string) ([]string, error) {
	var users []string
	for id, names := range inUse {
		manifest, err := publisher.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue // not a release: VMs also refer to other objects in the store
		}
		if err != nil {
			return nil, err
		}
		if manifest.Kind == release.Base && manifest.Name == name {
			users = append(users, names...)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// ImportState implements resource.ResourceWithImportState: a base is imported by its name.
func (r *baseResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	resource.ImportStatePassthroughID(ctx, path.Root("name"), req, resp)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateImported, []byte("true"))...)
}

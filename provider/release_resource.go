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
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// releaseResource is what sharedos_base and sharedos_component do: each keeps a name in the pool that has releases.
type releaseResource struct {
	connected

	kind *releaseKind
}

var (
	_ resource.ResourceWithConfigure      = (*baseResource)(nil)
	_ resource.ResourceWithImportState    = (*baseResource)(nil)
	_ resource.ResourceWithValidateConfig = (*baseResource)(nil)
)

// Metadata implements resource.Resource.
func (r *releaseResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + string(r.kind.kind)
}

// schema is the schema of the kind.
func (r *releaseResource) schema(ctx context.Context, description string) schema.Schema {
	attributes := r.kind.new().attributes()
	attributes["timeouts"] = timeoutsAttribute(ctx, buildTimeout)
	return schema.Schema{Version: stateVersion, MarkdownDescription: description, Attributes: attributes}
}

// Create implements resource.Resource. A Create that was interrupted after the upload finds its own release again. An
// object of this name with any other release belongs to another configuration.
func (r *releaseResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	plan := r.kind.new()
	resp.Diagnostics.Append(req.Plan.Get(ctx, plan)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.fields().Timeouts.Create(ctx, buildTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	var owner string
	published, diags := r.publish(ctx, plan, nil, &owner, "create", limit)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(r.endCreate(ctx, plan.fields().Name.ValueString(), owner, !diags.HasError())...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	resp.Diagnostics.Append(identify(ctx, resp.Identity, releaseIdentity, plan.fields().Name.ValueString())...)
	resp.Diagnostics.Append(setOwner(ctx, resp.Private, owner)...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateSource, published)...)
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
}

// Update implements resource.Resource: it publishes the next release of the name.
func (r *releaseResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	plan, state := r.kind.new(), r.kind.new()
	resp.Diagnostics.Append(req.Plan.Get(ctx, plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(identify(ctx, resp.Identity, releaseIdentity, plan.fields().Name.ValueString())...)
	limit, diags := plan.fields().Timeouts.Update(ctx, buildTimeout)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, r.connection.noteKey(objectOf(plan)), []byte("null"))...)
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
	if resp.Diagnostics.HasError() {
		return
	}
	owner, _, diags := r.claim(ctx, plan.fields().Name.ValueString(), "update", req.Private, resp.Private)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	if !hasSource(plan) || sameSource(plan, state) && plan.fields().Release.Equal(state.fields().Release) {
		// No new release is planned, so the source is not read: only settings such as retain have changed.
		if plan.fields().retained() != state.fields().retained() {
			resp.Diagnostics.Append(r.updateSettings(ctx, plan, limit)...)
		}
		if !resp.Diagnostics.HasError() {
			resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
		}
		return
	}
	published, diags := r.publish(ctx, plan, state, &owner, "update", limit)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateSource, published)...)
}

// publish builds and uploads the planned release and completes the plan with it. It returns the record of the source
// for private state. Without a state, the object is new, and it returns its owner.
func (r *releaseResource) publish(ctx context.Context, plan, state released, owner *string, do string,
	limit time.Duration) ([]byte, diag.Diagnostics) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	fields, object := plan.fields(), objectOf(plan)
	progress := newProgress(ctx, object)
	fail := func(err error, next string) ([]byte, diag.Diagnostics) {
		return nil, failedAt(chosen(plan).at(), failure{
			do: do, object: object, step: progress.at(), timeout: "timeouts." + do, err: err, next: next,
		})
	}
	if !hasSource(plan) {
		return nil, needsSource(plan, do, "there is nothing to make a release from")
	}
	in, diags := inputOf(ctx, plan, r.connection.cacheDir())
	if diags.HasError() {
		return nil, diags
	}
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err != nil {
		return fail(err, "")
	}
	publisher := r.kind.publisher(backend)
	if state == nil {
		begun, next, err := r.beginCreate(ctx, publisher, in.Name)
		if err != nil {
			return fail(err, next)
		}
		*owner = begun
	}
	if refused := plan.check(ctx, backend); refused.HasError() {
		return nil, append(diags, refused...)
	}
	progress.step("reading the source")
	if err := fields.pin(ctx, in.opened); err != nil {
		return fail(err, "")
	}
	// The fingerprint is taken before the source is read, so that the next plan notices a change in between.
	fingerprint, err := localFingerprint(ctx, in.opened)
	if err != nil {
		return fail(err, "")
	}
	prepared, err := publisher.Prepare(ctx, in.Spec, progress.part)
	if err != nil {
		return fail(err, "")
	}
	if planned := fields.Release; !planned.IsUnknown() && planned.ValueString() != prepared.ID.String() {
		return fail(fmt.Errorf("%w: %v, planned as release %s, results in release %s now: %s",
			errOtherRelease, in.opened,
			planned.ValueString(), prepared.ID, differs(plan, prepared)), planAgain)
	}
	if state == nil && !prepared.Unchanged && !prepared.Manifest.Previous.IsZero() {
		return fail(fmt.Errorf("a %s of this name exists in the pool already, with release %s", r.kind.kind,
			prepared.Manifest.Previous),
			fmt.Sprintf("Nothing was uploaded. Choose another name, or import the existing %s: run terraform import "+
				"with "+itsAddress+" and %s.", r.kind.kind, in.Name))
	}
	if !prepared.Unchanged {
		prepared.Owner = *owner
		progress.step("uploading")
		if err := publisher.Publish(ctx, prepared, progress.part); err != nil {
			return fail(err, "")
		}
	}
	if fields.Release.IsUnknown() {
		taken := take(ctx, plan, backend, prepared, state, r.connection.chain())
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

// updateSettings applies a change of settings that needs no new release: it deletes the releases that are not to be
// kept.
func (r *releaseResource) updateSettings(ctx context.Context, plan released, limit time.Duration) diag.Diagnostics {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	backend, err := r.connection.get(ctx)
	if err != nil {
		return failed(failure{do: "update", object: objectOf(plan), step: "connecting",
			timeout: "timeouts.update", err: err})
	}
	return retain(ctx, backend, plan)
}

// Read implements resource.Resource. An object is removed from state only if the store says that it does not exist.
func (r *releaseResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	state := r.kind.new()
	resp.Diagnostics.Append(req.State.Get(ctx, state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	name, object := state.fields().Name.ValueString(), objectOf(state)
	resp.Diagnostics.Append(identify(ctx, resp.Identity, releaseIdentity, name)...)
	backend, err := r.connection.get(ctx)
	if errors.Is(err, errUnknownConfig) {
		resp.Diagnostics.AddWarning("Unable to refresh "+object, sentence(err)+" The state is unchanged.")
		return
	}
	if err == nil {
		other, diags := r.readOwner(ctx, r.kind.publisher(backend), name, req.Private, resp.Private)
		if resp.Diagnostics.Append(diags...); other || diags.HasError() {
			return // the state is unchanged
		}
	}
	var id tree.Digest
	var manifest *release.Manifest
	if err == nil {
		id, manifest, err = r.kind.publisher(backend).Newest(ctx, name)
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		resp.State.RemoveResource(ctx)
		return
	case errors.Is(err, publish.ErrDamagedStore) && !state.fields().Release.IsNull():
		resp.Diagnostics.AddAttributeWarning(path.Root("release"),
			"The newest release of "+object+" is damaged", sentence(err)+
				" VMs that run it keep running, and move to the new release with that apply. terraform destroy is possible, too.")
		resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateDamaged, []byte("true"))...)
		return
	case err != nil:
		resp.Diagnostics.Append(failed(failure{do: "read", object: object, err: err})...)
		return
	}
	if damaged, diags := isDamaged(ctx, req.Private); damaged || diags.HasError() {
		resp.Diagnostics.Append(diags...)
		resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateDamaged, []byte("false"))...)
	}
	resp.Diagnostics.Append(state.describe(ctx, backend, id, manifest, r.connection.chain())...)
	resp.Diagnostics.Append(resp.State.Set(ctx, state)...)
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
}

// privateDamaged is a key in private state. It is true while the newest release cannot be read from the pool.
const privateDamaged = "damaged"

// isDamaged reports whether the newest release could not be read when the state was last refreshed.
func isDamaged(ctx context.Context, private privateState) (bool, diag.Diagnostics) {
	text, diags := private.GetKey(ctx, privateDamaged)
	return string(text) == "true", diags
}

// Delete implements resource.Resource. What VMs use is not deleted.
func (r *releaseResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	state := r.kind.new()
	resp.Diagnostics.Append(req.State.Get(ctx, state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := state.fields().Timeouts.Delete(ctx, deleteTimeout)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	name, object := state.fields().Name.ValueString(), objectOf(state)
	fail := func(step string, err error, next string) {
		resp.Diagnostics.Append(failed(failure{
			do: "delete", object: object, step: step, timeout: "timeouts.delete", err: err, next: next,
		})...)
	}
	backend, err := r.connection.get(ctx)
	if err != nil {
		fail("connecting", err, "")
		return
	}
	_, other, diags := r.claim(ctx, name, "delete", req.Private, nil)
	if other {
		resp.Diagnostics.AddWarning(object+" was left alone", diags[0].Detail())
		return
	}
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	var inUse map[tree.Digest][]string
	err = r.kind.publisher(backend).Delete(ctx, name,
		func(ctx context.Context) (_ map[tree.Digest][]string, err error) {
			inUse, err = backend.VMs().InUse(ctx)
			return inUse, err
		})
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound):
	case errors.Is(err, store.ErrInUse):
		users, lookErr := r.users(ctx, r.kind.publisher(backend), name, inUse)
		if lookErr != nil {
			fail("", errors.Join(err, lookErr), "Nothing was deleted.")
			return
		}
		next := "Nothing was deleted. " + r.kind.movingFirst
		if len(users) > 0 {
			next = fmt.Sprintf("Nothing was deleted. These VMs use it: %s. %s",
				strings.Join(users, ", "), r.kind.freeing)
		}
		fail("", err, next)
	default:
		fail("deleting its releases", err, "")
	}
}

// users names the VMs that run a release of the object.
func (r *releaseResource) users(ctx context.Context, publisher publish.Interface, name string,
	inUse map[tree.Digest][]string) ([]string, error) {
	var users []string
	for id, names := range inUse {
		manifest, err := publisher.Get(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			continue // not a release: VMs also refer to other objects in the store
		}
		if err != nil {
			return nil, err
		}
		if manifest.Kind == r.kind.kind && manifest.Name == name {
			users = append(users, names...)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// ImportState implements resource.ResourceWithImportState: an object is imported by its name, as an ID or
// as its identity.
func (r *releaseResource) ImportState(ctx context.Context, req resource.ImportStateRequest,
	resp *resource.ImportStateResponse) {
	resource.ImportStatePassthroughWithIdentity(ctx, path.Root("name"), path.Root(releaseIdentity), req, resp)
	resp.Diagnostics.Append(resp.Private.SetKey(ctx, privateImported, []byte("true"))...)
}

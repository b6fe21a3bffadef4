package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// A base or component has one owner: the Terraform state that has created or imported it. Its record in the pool names
// the owner, and the private state of the resource does, too. Only the owner publishes releases and deletes it. Any
// other state reads it as a data source. An import hands it over.
const (
	// privateOwner is the key of the owner, a JSON string. States of earlier versions have none.
	privateOwner = "owner"
	// privateImported is set from an import until the object is first read.
	privateImported = "imported"
)

// ownerOf returns the owner in private state; "" if there is none.
func ownerOf(ctx context.Context, private privateState) (string, diag.Diagnostics) {
	stored, diags := private.GetKey(ctx, privateOwner)
	if diags.HasError() || len(stored) == 0 {
		return "", diags
	}
	var owner string
	if err := json.Unmarshal(stored, &owner); err != nil {
		return "", append(diags, failed(failure{do: "read the private state of", object: "a resource", err: err})...)
	}
	return owner, diags
}

func setOwner(ctx context.Context, private privateWriter, owner string) diag.Diagnostics {
	text, err := json.Marshal(owner)
	if err != nil {
		return failed(failure{do: "write the private state of", object: "a resource", err: err})
	}
	return private.SetKey(ctx, privateOwner, text)
}

// beginCreate returns the owner of an object that is to be created: a new one, or that of a creation that was
// interrupted. An object of any other owner is refused, with what to do.
func (r *releaseResource) beginCreate(ctx context.Context, publisher publish.Interface,
	name string) (owner, next string, _ error) {
	owned, err := publisher.Owner(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return newUUID(), "", nil
	case err != nil:
		return "", "", err
	case owned.Interrupted:
		return owned.Owner, "", nil
	}
	return "", fmt.Sprintf(
			"Nothing was uploaded. To use the %[1]s, read it with the data source sharedos_%[1]s. To take it over "+
				"from the state that has it, import it with: terraform import ADDRESS %[2]s. Otherwise choose "+
				"another name.",
			r.kind.kind, name),
		fmt.Errorf("a %s of this name exists in the pool already: %w", r.kind.kind, publish.ErrOwner)
}

// planOwned refuses the plan of an object that another resource of the configuration has, too, and the plan of a new
// one whose name somebody else's has.
func (r *releaseResource) planOwned(ctx context.Context, name types.String, exists bool, private privateState,
	to privateWriter) diag.Diagnostics {
	if name.IsUnknown() {
		return nil
	}
	own, diags := ownerOf(ctx, private)
	if diags.HasError() {
		return diags
	}
	if exists {
		r.connection.noteState(own)
	}
	object := r.kind.object(name.ValueString())
	first, diags := r.connection.planName(ctx, object, exists, private, to)
	if exists || !first || diags.HasError() {
		return diags
	}
	backend, err := r.connection.get(ctx)
	if err != nil {
		return nil // whoever needs it reports it
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	owned, err := r.kind.publisher(backend).Owner(ctx, name.ValueString())
	switch {
	case err != nil || owned.Interrupted:
		return nil // the apply asks again
	case r.connection.inState(owned.Owner):
		// It is tainted: Terraform deletes it with the private data of this plan.
		return setOwner(ctx, to, owned.Owner)
	}
	_, next, err := r.beginCreate(ctx, r.kind.publisher(backend), name.ValueString())
	if err == nil {
		return nil // it was deleted meanwhile
	}
	return failedAt(path.Root("name"), failure{do: "plan", object: object, err: err, next: next})
}

// endCreate records that the object was made, and is in state when Terraform has ended the
// provider, or that its creation was given up, so that the next apply continues it.
func (r *releaseResource) endCreate(ctx context.Context, name, owner string, made bool) diag.Diagnostics {
	if owner == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	backend, err := r.connection.get(ctx)
	if err == nil && made {
		r.connection.madeRelease(func(ctx context.Context, backend Backend) error {
			return r.kind.publisher(backend).SetOwner(ctx, name, owner)
		})
		err = r.kind.publisher(backend).Made(ctx, name, owner)
	} else if err == nil {
		err = r.kind.publisher(backend).Abandon(ctx, name, owner)
	}
	if err != nil {
		return diag.Diagnostics{diag.NewWarningDiagnostic("Unable to record the owner of "+r.kind.object(name),
			sentence(err)+
				"\n\nThe next plan records it.")}
	}
	return nil
}

// readOwner reports whether the object belongs to another state. For one that was just imported, it records this state
// as the owner.
func (r *releaseResource) readOwner(ctx context.Context, publisher publish.Interface, name string, private privateState,
	to privateWriter) (bool, diag.Diagnostics) {
	own, diags := ownerOf(ctx, private)
	r.connection.noteState(own)
	imported, d := private.GetKey(ctx, privateImported)
	if diags.Append(d...); diags.HasError() {
		return false, diags
	}
	owned, err := publisher.Owner(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, diags
	case err != nil && !errors.Is(err, publish.ErrMaking):
		return false, append(diags, failed(failure{do: "read", object: r.kind.object(name), err: err})...)
	case string(imported) == "true":
		own = newUUID()
		if err := publisher.SetOwner(ctx, name, own); err != nil {
			return false, append(diags, failed(failure{do: "import", object: r.kind.object(name), err: err})...)
		}
		diags.Append(setOwner(ctx, to, own)...)
		diags.Append(to.SetKey(ctx, privateImported, []byte("false"))...)
	case owned.Owner == own && owned.Unrecorded:
		if err := publisher.SetOwner(ctx, name, own); err != nil {
			return false, append(diags, failed(failure{do: "read", object: r.kind.object(name), err: err})...)
		}
	case owned.Owner != "" && owned.Owner != own:
		diags.AddAttributeWarning(path.Root("name"),
			r.kind.object(name)+" belongs to another Terraform state", r.otherOwner(name)+
				" This state keeps what it last knew.")
		return true, diags
	}
	return false, diags
}

func (r *releaseResource) otherOwner(name string) string {
	return fmt.Sprintf(
		"Another state has created this %[1]s, or has taken it over by an import. Only that state publishes releases "+
			"of it and deletes it. Replace this resource by the data source sharedos_%[1]s, after terraform state rm "+
			"ADDRESS; or take the %[1]s over with terraform state rm ADDRESS and terraform import ADDRESS "+
			"%[2]s.", r.kind.kind, name)
}

// claim returns the owner in private state if the object belongs to it. An object without an owner, which an earlier
// version has made, gets one if to is not nil. If the object belongs to another state, other is true, and the
// diagnostics have an error.
func (r *releaseResource) claim(ctx context.Context, name, do string, private privateState,
	to privateWriter) (own string, other bool, diags diag.Diagnostics) {
	own, diags = ownerOf(ctx, private)
	if diags.HasError() {
		return "", false, diags
	}
	ctx, cancel := context.WithTimeout(ctx, ownerTimeout)
	defer cancel()
	backend, err := r.connection.get(ctx)
	if err != nil {
		return own, false, nil // the caller reports it
	}
	owned, err := r.kind.publisher(backend).Owner(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, publish.ErrMaking):
		return own, false, nil
	case err != nil:
		return own, false, failed(failure{do: do, object: r.kind.object(name), step: "finding its owner", err: err})
	case owned.Owner != "" && owned.Owner != own:
		return own, true, failedAt(path.Root("name"),
			failure{do: do, object: r.kind.object(name), err: publish.ErrOwner, next: r.otherOwner(name)})
	case owned.Owner == "" && to != nil:
		if own == "" {
			own = newUUID()
		}
		if err := r.kind.publisher(backend).SetOwner(ctx, name, own); err != nil {
			return own, false, failed(failure{do: do, object: r.kind.object(name),
				step: "recording its owner", err: err})
		}
		return own, false, setOwner(ctx, to, own)
	}
	return own, false, nil
}

// ownerTimeout bounds finding and recording an owner.
const ownerTimeout = 2 * time.Minute

package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// A base has one owner: the Terraform state that has created or imported it. The base's record in the pool names the owner, and the
// private state of the resource does, too. Only the owner publishes releases and deletes the base. Any other state reads it as a data
// source. An import hands it over.
const (
	// privateOwner is the key of the owner, a JSON string. States of earlier versions have none.
	privateOwner = "owner"
	// privateImported is set from the import of a base until it is first read.
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
		return "", append(diags, failed(failure{do: "read the private state of", object: "a base", err: err})...)
	}
	return owner, diags
}

func setOwner(ctx context.Context, private privateWriter, owner string) diag.Diagnostics {
	text, err := json.Marshal(owner)
	if err != nil {
		return failed(failure{do: "write the private state of", object: "a base", err: err})
	}
	return private.SetKey(ctx, privateOwner, text)
}

// beginCreate returns the owner of a base that is to be created: a new one, or that of a creation that was interrupted. A base of
// any other owner is refused, with what to do.
func beginCreate(ctx context.Context, publisher publish.Interface, name string) (owner, next string, _ error) {
	owned, err := publisher.Owner(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return newUUID(), "", nil
	case err != nil:
		return "", "", err
	case owned.Interrupted:
		return owned.Owner, "", nil
	}
	return "", fmt.Sprintf("Nothing was uploaded. To use the base, read it with the data source sharedos_base. To take it over from the "+
			"state that has it, import it with: terraform import ADDRESS %s. Otherwise choose another name.", name),
		fmt.Errorf("a base of this name exists in the pool already: %w", publish.ErrOwner)
}

// endCreate records that the base is in state, or that its creation was given up, so that the next apply continues it.
func (r *baseResource) endCreate(ctx context.Context, name, owner string, inState bool) diag.Diagnostics {
	if owner == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	backend, err := r.connection.get(ctx)
	if err == nil && inState {
		err = backend.Publisher().SetOwner(ctx, name, owner)
	} else if err == nil {
		err = backend.Publisher().Abandon(ctx, name, owner)
	}
	if err != nil {
		return diag.Diagnostics{diag.NewWarningDiagnostic("Unable to record the owner of "+baseName(name), sentence(err)+
			"\n\nThe next plan records it.")}
	}
	return nil
}

// readOwner reports whether a base belongs to another state. For a base that was just imported, it records this state as the owner.
func (r *baseResource) readOwner(ctx context.Context, publisher publish.Interface, name string, private privateState, to privateWriter) (bool, diag.Diagnostics) {
	own, diags := ownerOf(ctx, private)
	imported, d := private.GetKey(ctx, privateImported)
	if diags.Append(d...); diags.HasError() {
		return false, diags
	}
	owned, err := publisher.Owner(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, diags
	case err != nil && !errors.Is(err, publish.ErrMaking):
		return false, append(diags, failed(failure{do: "read", object: baseName(name), err: err})...)
	case string(imported) == "true":
		own = newUUID()
		if err := publisher.SetOwner(ctx, name, own); err != nil {
			return false, append(diags, failed(failure{do: "import", object: baseName(name), err: err})...)
		}
		diags.Append(setOwner(ctx, to, own)...)
		diags.Append(to.SetKey(ctx, privateImported, []byte("false"))...)
	case owned.Owner == own && owned.Interrupted:
		// The state has it although its process was killed before it could record that.
		if err := publisher.SetOwner(ctx, name, own); err != nil {
			return false, append(diags, failed(failure{do: "read", object: baseName(name), err: err})...)
		}
	case owned.Owner != "" && owned.Owner != own:
		diags.AddAttributeWarning(path.Root("name"), baseName(name)+" belongs to another Terraform state", otherOwner(name)+
			" This state keeps what it last knew.")
		return true, diags
	}
	return false, diags
}

func otherOwner(name string) string {
	return fmt.Sprintf("Another state has created this base, or has taken it over by an import. Only that state publishes releases of it "+
		"and deletes it. Replace this resource by the data source sharedos_base, after terraform state rm ADDRESS; or take the base "+
		"over with terraform state rm ADDRESS and terraform import ADDRESS %s.", name)
}

// claim returns the owner in private state if the base belongs to it. A base without an owner, which an earlier version has made, gets one
// if to is not nil. If the base belongs to another state, other is true, and the diagnostics have an error.
func (r *baseResource) claim(ctx context.Context, name, do string, private privateState, to privateWriter) (own string, other bool, diags diag.Diagnostics) {
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
	owned, err := backend.Publisher().Owner(ctx, name)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, publish.ErrMaking):
		return own, false, nil
	case err != nil:
		return own, false, failed(failure{do: do, object: baseName(name), step: "finding its owner", err: err})
	case owned.Owner != "" && owned.Owner != own:
		return own, true, failedAt(path.Root("name"), failure{do: do, object: baseName(name), err: publish.ErrOwner, next: otherOwner(name)})
	case owned.Owner == "" && to != nil:
		if own == "" {
			own = newUUID()
		}
		if err := backend.Publisher().SetOwner(ctx, name, own); err != nil {
			return own, false, failed(failure{do: do, object: baseName(name), step: "recording its owner", err: err})
		}
		return own, false, setOwner(ctx, to, own)
	}
	return own, false, nil
}

// ownerTimeout bounds finding and recording an owner.
const ownerTimeout = 2 * time.Minute

package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmFilter chooses among all VMs of the pool. What is null chooses all.
type vmFilter struct {
	Base      types.String `tfsdk:"base"`
	Release   types.String `tfsdk:"release"`
	Component types.String `tfsdk:"component"`
	Pending   types.Bool   `tfsdk:"pending"`
	Silent    types.Bool   `tfsdk:"silent"`
}

// The descriptions of the attributes of a filter.
const (
	filterBase      = "Name of a base: VMs that run a release of it, or are to."
	filterRelease   = "Id of a release of a base or component: VMs that run it, or are to. `sharedos_base` and `sharedos_component` have it."
	filterComponent = "Name of a component: VMs that run a release of it, or are to."
	filterPending   = "Whether something waits for the next apply or the next power-off and start of the VM: another " +
		"stack, a new kernel, or old code that a refresh could not renew. VMs whose agent does not answer are in " +
		"neither list."
	filterSilent = "Whether the VM runs and its agent does not answer."
)

// set reports whether the filter excludes any VM.
func (f *vmFilter) set() bool {
	return !f.Base.IsNull() || !f.Release.IsNull() || !f.Component.IsNull() || !f.Pending.IsNull() || !f.Silent.IsNull()
}

// foundVM is a VM that a filter has chosen, with the names of its base and its components, which it
// runs or is to run. A name is not known if the pool has the release no more.
type foundVM struct {
	vm.Listed
	base       string
	components []string
}

// waits reports whether something waits for the next apply or the next power-off and start of a VM.
// It is not known of a silent one.
func waits(found *vm.VM) bool {
	return len(found.Agent.GetPending()) > 0 || found.AwaitsPowerCycle || !found.Stack.Same(found.Configured)
}

// find lists the VMs of the pool that the filter chooses. VMs that cannot be read are warned of,
// and are in the list only if the filter chooses all.
func (f *vmFilter) find(ctx context.Context, backend Backend) ([]foundVM, diag.Diagnostics) {
	all, err := backend.VMs().List(ctx)
	if err != nil {
		return nil, failed(failure{do: "list", object: "the VMs of the pool", err: err})
	}
	names := releaseNames{publisher: backend.Publisher(), known: map[tree.Digest]string{}}
	var chosen []foundVM
	var diags diag.Diagnostics
	for _, one := range all {
		if one.VM == nil {
			diags.AddWarning("Unable to read "+vmName(plain.Line(one.Name)),
				sentence(one.Err)+" The other VMs are listed.")
			if !f.set() {
				chosen = append(chosen, foundVM{Listed: one})
			}
			continue
		}
		found := foundVM{Listed: one}
		if found.base, err = names.of(ctx, one.VM.Stack.Base); err != nil {
			return nil, append(diags, failed(failure{do: "read the base of", object: vmName(one.Name), err: err})...)
		}
		if found.components, err = names.all(ctx, one.VM.Stack, one.VM.Configured); err != nil {
			return nil, append(diags,
				failed(failure{do: "read the components of", object: vmName(one.Name), err: err})...)
		}
		next, err := names.of(ctx, one.VM.Configured.Base)
		if err != nil {
			return nil, append(diags, failed(failure{do: "read the base of", object: vmName(one.Name), err: err})...)
		}
		if f.takes(found, next) {
			chosen = append(chosen, found)
		}
	}
	return chosen, diags
}

// takes reports whether the filter chooses a VM that was read. next is the name of the base that it is to run.
func (f *vmFilter) takes(found foundVM, next string) bool {
	is := found.VM
	runs := func(text string) bool {
		named := func(id tree.Digest) bool { return id.String() == text }
		return named(is.Stack.Base) || named(is.Configured.Base) ||
			slices.ContainsFunc(slices.Concat(is.Stack.Components, is.Configured.Components), named)
	}
	switch {
	case !f.Base.IsNull() && f.Base.ValueString() != found.base && f.Base.ValueString() != next,
		!f.Release.IsNull() && !runs(f.Release.ValueString()),
		!f.Component.IsNull() && !slices.Contains(found.components, f.Component.ValueString()),
		!f.Silent.IsNull() && f.Silent.ValueBool() != silent(is),
		!f.Pending.IsNull() && (silent(is) || f.Pending.ValueBool() != waits(is)):
		return false
	}
	return true
}

// releaseNames finds the names of bases and components by their releases, and reads each release once.
type releaseNames struct {
	publisher publish.Interface
	known     map[tree.Digest]string
}

// of returns the name of a release; "" if the pool does not have it.
func (n releaseNames) of(ctx context.Context, id tree.Digest) (string, error) {
	if name, ok := n.known[id]; ok {
		return name, nil
	}
	manifest, err := n.publisher.Get(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrCorrupt), errors.Is(err, publish.ErrDamagedStore),
		errors.Is(err, release.ErrSignature), errors.Is(err, release.ErrManifest), errors.Is(err, release.ErrSchema):
		n.known[id] = "" // it is gone, damaged, or another operator's
	case err != nil:
		return "", fmt.Errorf("read release %s: %w", id, err)
	default:
		n.known[id] = manifest.Name
	}
	return n.known[id], nil
}

// all returns the names of the components of stacks, sorted, each once.
func (n releaseNames) all(ctx context.Context, stacks ...release.Stack) ([]string, error) {
	names := []string{}
	for _, stack := range stacks {
		for _, id := range stack.Components {
			name, err := n.of(ctx, id)
			if err != nil {
				return nil, err
			}
			if name != "" {
				names = append(names, name)
			}
		}
	}
	slices.SortFunc(names, strings.Compare)
	return slices.Compact(names), nil
}

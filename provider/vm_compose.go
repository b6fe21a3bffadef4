package provider

import (
	"context"
	"errors"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// noStack is the error that base and components of a VM do not make a stack, at the attribute that has to change.
func noStack(ctx context.Context, backend Backend, spec vm.Spec, err error) diag.Diagnostics {
	at := path.Root("components")
	switch {
	case len(spec.Components) > 0:
	case len(spec.OnDemand) > 0:
		at = path.Root("on_demand")
	default:
		at = path.Root("base")
	}
	if base, lookErr := findRelease(ctx, backend.Publisher(), spec.Base); lookErr == nil && base.Kind != release.Base {
		at = path.Root("base")
	}
	return failedAt(at, failure{do: "plan", object: vmName(spec.Name), err: err, next: "Nothing was changed. " + stackAdvice(err)})
}

// stackAdvice says what to do if releases do not make a stack; empty if the error says so itself.
func stackAdvice(err error) string {
	for _, kind := range []struct {
		err  error
		next string
	}{
		{compose.ErrKind, "Set base to the attribute release of a sharedos_base, and components to those of sharedos_component resources."},
		{compose.ErrBuiltOn, "Give the VM and the component the same base release: set base of both to the attribute release of one sharedos_base. " +
			"If another configuration makes the component, apply that one, so that the component is built on this base release."},
		{compose.ErrTwice, "Remove one of the two from components."},
		{compose.ErrArchitecture, "Use a base and components of one architecture."},
		{compose.ErrTooMany, "Remove components that the VM does not need, or make one component of several."},
		{compose.ErrConflict, "Remove one of the two from components, or change the source of one of them so that both have the same there."},
	} {
		if errors.Is(err, kind.err) {
			return kind.next
		}
	}
	return ""
}

// noRelease is the error that base or components name a release that nobody publishes.
func noRelease(spec vm.Spec, missing *vm.MissingReleaseError, err error) diag.Diagnostics {
	at, kind := path.Root("base"), release.Base
	if i := slices.Index(spec.Components, missing.ID); i >= 0 {
		at, kind = path.Root("components").AtListIndex(i), release.Component
	}
	if i := slices.Index(spec.OnDemand, missing.ID); i >= 0 {
		at, kind = path.Root("on_demand").AtListIndex(i), release.Component
	}
	return failedAt(at, failure{do: "plan", object: vmName(spec.Name), err: err,
		next: "Nothing was changed. Use the attribute release of a sharedos_" + string(kind) + ", of this configuration or as a data source."})
}

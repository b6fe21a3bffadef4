package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// noStack is the error that base and components of a VM do not make a stack, at the attribute that has to change.
func noStack(ctx context.Context, backend Backend, spec vm.Spec, err error) diag.Diagnostics {
	at := componentsPath(spec)
	if base, lookErr := findRelease(ctx, backend.Publisher(), spec.Base); lookErr == nil && base.Kind != release.Base {
		at = path.Root("base")
	}
	if errors.Is(err, compose.ErrPrefer) {
		at = path.Root("prefer")
	}
	return failedAt(at, failure{do: "plan", object: vmName(spec.Name), err: err,
		next: "Nothing was changed. " + stackAdvice(err)})
}

// componentsPath is the attribute that most likely has to change for another stack.
func componentsPath(spec vm.Spec) path.Path {
	switch {
	case len(spec.Components) > 0:
		return path.Root("components")
	case len(spec.OnDemand) > 0:
		return path.Root("on_demand")
	}
	return path.Root("base")
}

// stackAdvice says what to do if releases do not make a stack; empty if the error says so itself.
func stackAdvice(err error) string {
	for _, kind := range []struct {
		err  error
		next string
	}{
		{compose.ErrKind, "Set base to the attribute release of a sharedos_base, and components to those of sharedos_component resources."},
		{compose.ErrBuiltOn,
			"Give the VM and the component the same base release: set base of both to the attribute release of one " +
				"sharedos_base. If another configuration makes the component, apply that one, so that the component " +
				"is built on this base release."},
		{compose.ErrTwice, "Remove one of the two from components or on_demand."},
		{compose.ErrArchitecture, "Use a base and components of one architecture."},
		{compose.ErrTooMany, "Remove components that the VM does not need, or make one component of several."},
		{compose.ErrNeeds, "Add a component that has it to the VM, or add it to the component or to its base."},
		{compose.ErrPrefer, "Name a component of the VM in prefer, or remove the path from prefer."},
	} {
		if errors.Is(err, kind.err) {
			return kind.next
		}
	}
	var conflict *compose.Conflict
	switch {
	case errors.As(err, &conflict) && strings.HasPrefix(conflict.What, "/"):
		return fmt.Sprintf(
			"Remove one of the two from components or on_demand, change the source of one of them so that both have "+
				"the same there, or say in prefer which one it is: prefer = { %q = %q "+
				"}.", conflict.What, conflict.Second)
	case errors.Is(err, compose.ErrConflict):
		return "Remove one of the two from components or on_demand, or change the source of one of them so that both have the same there."
	}
	return ""
}

// unusedPreferences warns of what a VM prefers in vain.
func unusedPreferences(name string, unused []release.Preference) (diags diag.Diagnostics) {
	for _, one := range unused {
		diags.AddAttributeWarning(path.Root("prefer").AtMapKey(one.Path),
			fmt.Sprintf("A path in prefer of %s settles nothing", vmName(name)),
			fmt.Sprintf(
				"No two components of it have different content at %s, or component %q has none there. Remove the path from prefer.",
				plain.Line(one.Path), one.Component))
	}
	return diags
}

// stackNotBuilt warns of what a plan costs that builds nothing.
func stackNotBuilt(spec vm.Spec) diag.Diagnostics {
	return diag.Diagnostics{diag.NewAttributeWarningDiagnostic(componentsPath(spec),
		"This plan does not know the stack of "+vmName(spec.Name),
		"Layers that are made from its components have to be built first, and build_at_plan is false in the provider "+
			"block. So the plan does not say whether the components go together, or what the change interrupts. The "+
			"apply checks both when it comes to this VM, so it can fail after others were changed.\n\nRemove "+
			"build_at_plan = false to have the plan build into the cache. The apply then uses what the plan has "+
			"built.")}
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
		next: "Nothing was changed. Use the attribute release of a sharedos_" + string(kind) +
			", of this configuration or as a data source."})
}

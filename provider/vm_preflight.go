package provider

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// preflight refuses a plan that the host cannot carry out, or that another resource contradicts.
// The state of a new VM is nil.
func (r *vmResource) preflight(ctx context.Context, plan, state *vmModel) diag.Diagnostics {
	question := vm.Question{Known: r.connection.inState}
	var diags diag.Diagnostics
	question.Want, diags = plan.knownSpec(ctx)
	if state != nil {
		have, d := state.spec(ctx)
		diags.Append(d...)
		question.Have = &have
		question.Want.UUID = have.UUID
	}
	if diags.HasError() {
		return diags
	}
	problems := r.connection.planVM(question.Want, question.Want.UUID)
	backend, err := r.connection.get(ctx)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		var more []vm.Problem
		more, err = backend.VMs().Preflight(ctx, question)
		problems = append(problems, more...)
	}
	diags.Append(problemDiagnostics("plan", question.Want.Name, problems)...)
	if err != nil && !errors.Is(err, errUnknownConfig) && ctx.Err() == nil {
		diags.AddWarning("Unable to check what "+vmName(question.Want.Name)+" needs of the host",
			failure{err: err, next: "The apply fails if something is missing."}.detail())
	}
	return diags
}

// knownSpec is the specification of the VM, of the blocks that are known.
func (m *vmModel) knownSpec(ctx context.Context) (vm.Spec, diag.Diagnostics) {
	var spec vm.Spec
	var diags diag.Diagnostics
	for _, block := range m.blocks() {
		known, err := fullyKnown(ctx, block, vmNames().configurable)
		if err != nil {
			return spec, append(diags, failed(failure{do: "plan", object: vmName(m.Name.ValueString()), err: err})...)
		}
		if known {
			diags.Append(block.toSpec(ctx, &spec)...)
		}
	}
	spec.Name = m.Name.ValueString()
	return spec, diags
}

// problemDiagnostics names the attribute of each problem.
func problemDiagnostics(do, name string, problems []vm.Problem) (diags diag.Diagnostics) {
	for _, problem := range problems {
		fail := failure{do: do, object: vmName(name), err: problem.Err, next: problem.Next}
		if problem.Possible {
			diags.AddAttributeWarning(attributePath(problem.Attribute), sentence(problem.Err), problem.Next)
			continue
		}
		diags.Append(failedAt(attributePath(problem.Attribute), fail)...)
	}
	return diags
}

// attributePath is the path of an attribute. The second name of a path below a map is a key of it,
// and that below a list counts from 0.
func attributePath(names []string) path.Path {
	at := path.Root(names[0])
	for i, name := range names[1:] {
		index, err := strconv.Atoi(name)
		switch {
		case i == 0 && slices.Contains([]string{"interfaces", "disks", vm.AttributeDirectories, vm.AttributeDevices},
			names[0]):
			at = at.AtMapKey(name)
		case i == 0 && names[0] == vm.AttributePatches && err == nil:
			at = at.AtListIndex(index)
		default:
			at = at.AtName(name)
		}
	}
	return at
}

// startProblems names the attributes that can be why a VM did not start: what it needs of the host and
// is not there. QEMU itself says it in words only. It returns nothing if the VM runs, or need not.
func startProblems(ctx context.Context, vms vm.Interface, spec vm.Spec, state hypervisor.State) diag.Diagnostics {
	if !spec.Running || state != hypervisor.Off || ctx.Err() != nil {
		return nil
	}
	problems, err := vms.Preflight(ctx,
		vm.Question{Want: spec, Known: func(uuid string) bool { return uuid == spec.UUID }})
	if err != nil {
		return nil // the failure to start is reported
	}
	problems = slices.DeleteFunc(problems, func(p vm.Problem) bool { return p.Possible })
	return problemDiagnostics("start", spec.Name, problems)
}

package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmResource is sharedos_vm: a VM that runs a base and keeps what is its own on a private disk.
type vmResource struct{ connected }

var (
	_ resource.ResourceWithConfigure   = (*vmResource)(nil)
	_ resource.ResourceWithImportState = (*vmResource)(nil)
)

// Metadata implements resource.Resource.
func (r *vmResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_vm"
}

// Create implements resource.Resource. Whatever ends it early, a VM that was defined is in state afterwards.
func (r *vmResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan vmModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Create(ctx, vmWriteTimeout)
	resp.Diagnostics.Append(diags...)
	spec, diags := plan.spec(ctx)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	spec.UUID = newUUID()
	progress := newProgress(ctx, vmName(spec.Name))
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "create", object: vmName(spec.Name), step: progress.at(), err: err})...)
		return
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	made, err := backend.VMs().Create(bounded, spec, progress.step)
	if err == nil {
		err = asAsked(spec, made)
	}
	if err != nil {
		r.unfinished(ctx, backend.VMs(), &plan, spec, progress, err, resp)
		return
	}
	observed := plan
	resp.Diagnostics.Append(observed.observe(ctx, made)...)
	plan.complete(&observed)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
}

// unfinished ends a Create that did not finish. What was defined goes into state, so that it can be destroyed. An
// interruption by the user leaves the VM to be finished in place by the next apply; that is told as a warning,
// since Terraform replaces what an error left behind.
func (r *vmResource) unfinished(ctx context.Context, vms vm.Interface, plan *vmModel, spec vm.Spec, progress *progress, cause error, resp *resource.CreateResponse) {
	fail := failure{do: "create", object: vmName(spec.Name), step: progress.at(), timeout: "timeouts.create", err: cause}
	if errors.Is(cause, vm.ErrExists) || errors.Is(cause, hypervisor.ErrForeign) {
		fail.next = fmt.Sprintf("Nothing was changed. Choose another name, remove that VM, or, if it was made by this provider, "+
			"take it into this state with: terraform import ADDRESS %s", spec.Name)
		resp.Diagnostics.Append(failedAt(path.Root("name"), fail)...)
		return
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	found, err := vms.Read(look, spec.Name)
	if errors.Is(err, vm.ErrNotFound) || err == nil && found.Spec.UUID != spec.UUID {
		resp.Diagnostics.Append(failed(fail)...) // nothing of it was defined
		return
	}
	observed := *plan
	if err != nil {
		// No answer is not absence: the VM may be there.
		found = &vm.VM{Spec: spec}
		fail.err = errors.Join(cause, err)
	}
	resp.Diagnostics.Append(observed.observe(ctx, found)...)
	plan.complete(&observed)
	resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	resp.Diagnostics.Append(markUnfinished(ctx, resp.Private, progress.at())...)
	if ctx.Err() != nil {
		resp.Diagnostics.AddWarning("Interrupted while creating "+vmName(spec.Name), fmt.Sprintf(
			"It was at the step: %s.\n\nWhat was done is kept and is in state: apply again, and it is finished in place.", progress.at()))
		return
	}
	fail.next = "The VM is in state as it is. The next apply replaces it; to have it finished in place instead, " +
		"run first: terraform untaint ADDRESS"
	if step := nextStep(cause, ""); step != "" && !errors.Is(cause, context.DeadlineExceeded) {
		fail.next = step + "\n\n" + fail.next
	}
	resp.Diagnostics.Append(failed(fail)...)
}

// asAsked reports what of a VM is not as it was asked for although no step failed.
func asAsked(spec vm.Spec, found *vm.VM) error {
	switch {
	case spec.Running && found.State != hypervisor.Running:
		return fmt.Errorf("it is %s, although running = true was asked for", stateName(found.State))
	case !spec.Running && found.State != hypervisor.Off:
		return fmt.Errorf("it is %s, although running = false was asked for", stateName(found.State))
	default:
		return nil
	}
}

// Read implements resource.Resource. Only libvirt's own not-found removes a VM from state; a silent agent changes
// nothing but the attribute that says so.
func (r *vmResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state vmModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	name := state.Name.ValueString()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	backend, err := r.connection.get(ctx)
	if errors.Is(err, errUnknownConfig) {
		resp.Diagnostics.AddWarning("Unable to refresh "+vmName(name), sentence(err)+" State is kept as it was.")
		return
	}
	var found *vm.VM
	if err == nil {
		found, err = backend.VMs().Read(ctx, name)
	}
	known := state.UUID.ValueString()
	switch {
	case errors.Is(err, vm.ErrNotFound):
		resp.State.RemoveResource(ctx)
		return
	case err != nil:
		resp.Diagnostics.Append(failed(failure{do: "read", object: vmName(name), err: err})...)
		return
	case known != "" && known != found.Spec.UUID:
		// The VM of this state is gone: its name belongs to another one.
		resp.Diagnostics.AddWarning(vmName(name)+" is another VM now", fmt.Sprintf(
			"State has UUID %s, and libvirt has %s under this name. The VM in state is gone and leaves state; "+
				"the other one is left alone.", known, printable(found.Spec.UUID)))
		resp.State.RemoveResource(ctx)
		return
	}
	if found.State == hypervisor.Running && !found.Answered && known != "" {
		resp.Diagnostics.AddWarning("The agent of "+vmName(name)+" does not answer",
			failure{err: cmp.Or(found.NoAnswer, vm.ErrNoAnswer), next: "What the VM runs is not known, so state keeps what was last heard. Its console log on the host tells how far it came."}.detail())
	}
	if refused := limited(found.Agent.GetRefused()); len(refused) > 0 {
		resp.Diagnostics.AddWarning(vmName(name)+" did not boot what it was to", strings.Join(guestTexts(refused), "\n")+
			"\n\nIt runs base "+found.Stack.Base.String()+". Give it a base that comes up, or power it off and start it to have this one tried again.")
	}
	resp.Diagnostics.Append(state.observe(ctx, found)...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
	r.connection.noteRead(state.UUID.ValueString())
}

// Update implements resource.Resource: everything but the name changes in place. When it fails, state says what
// the VM runs, so that the next apply tries again.
func (r *vmResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state vmModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Update(ctx, vmWriteTimeout)
	resp.Diagnostics.Append(diags...)
	spec, diags := plan.spec(ctx)
	resp.Diagnostics.Append(diags...)
	resume, diags := isUnfinished(ctx, req.Private)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	progress := newProgress(ctx, vmName(spec.Name))
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "update", object: vmName(spec.Name), step: progress.at(), err: err})...)
		return
	}
	updated, report, err := update(ctx, backend.VMs(), spec, resume, limit, progress)
	var delta int64
	if report != nil {
		var sizeErr error
		if delta, sizeErr = state.newLayerBytes(ctx, backend.Publisher(), spec); sizeErr != nil {
			resp.Diagnostics.AddWarning("Unable to tell the size of the delta of "+vmName(spec.Name), sentence(sizeErr))
		}
	}
	if err != nil {
		resp.Diagnostics.Append(notUpdated(spec, report, progress, err)...)
		r.settle(ctx, backend.VMs(), state, report, delta, resp)
		return
	}
	observed := state
	resp.Diagnostics.Append(observed.fromImpact(ctx, done(report.GetImpact()))...)
	if report != nil && !updated.AwaitsPowerCycle { // else nothing was done
		resp.Diagnostics.Append(observed.fromReport(ctx, report, delta)...)
	}
	resp.Diagnostics.Append(observed.observe(ctx, updated)...)
	if updated.OtherAgent != "" {
		resp.Diagnostics.AddWarning("The agent of "+vmName(spec.Name)+" is not this provider's", guestText(updated.OtherAgent)+
			".\n\nWhat was asked for is done: the agent in the VM serves on. The next start of the VM brings the provider's.")
	}
	if updated.Remains != nil {
		resp.Diagnostics.Append(remains("What "+vmName(spec.Name)+" ran before is still in the storage pool", updated.Remains))
	}
	plan.complete(&observed)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	resp.Diagnostics.Append(markFinished(ctx, resp.Private)...)
}

// update makes the VM as spec says, finishing its creation first if that was cut off.
func update(ctx context.Context, vms vm.Interface, spec vm.Spec, resume bool, limit time.Duration, progress *progress) (*vm.VM, *agentapi.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if resume {
		if _, err := vms.Create(ctx, spec, progress.step); err != nil {
			return nil, nil, err
		}
	}
	updated, report, err := vms.Update(ctx, spec, progress.step)
	if err == nil {
		err = asAsked(spec, updated)
	}
	return updated, report, err
}

// notUpdated tells why an update failed and what the VM runs now.
func notUpdated(spec vm.Spec, report *agentapi.Report, progress *progress, err error) diag.Diagnostics {
	fail := failure{do: "update", object: vmName(spec.Name), step: progress.at(), timeout: "timeouts.update", err: err}
	switch {
	case errors.Is(err, vm.ErrNotLive):
		return notLive("update", spec.Name, err)
	case errors.Is(err, vm.ErrOther):
		fail.next = "Nothing was changed. The next plan takes the VM in state for gone, and leaves the other one alone."
		return failedAt(path.Root("name"), fail)
	case errors.Is(err, vm.ErrImpact):
		if impact := report.GetImpact(); impact != nil {
			return tooLarge(spec.Name, impact, levelName(spec.Refresh.MaxImpact))
		}
		return failedAt(path.Root("refresh").AtName("max_impact"), fail)
	case errors.Is(err, vm.ErrRolledBack):
		fail.do = "refresh"
		fail.next = "The VM runs what it ran before, and state says so: mend the cause, such as the base or a health check, and apply again."
		for _, restart := range report.GetRestarts() {
			if restart.GetError() != "" {
				fail.err = fmt.Errorf("%w\n  - %s: %s", fail.err, guestText(restart.GetUnit()), guestText(restart.GetError()))
			}
		}
		return failedAt(path.Root("base"), fail)
	default:
		return failed(fail)
	}
}

// remains tells that what a VM let go was not deleted, which is no failure of what was done to the VM.
func remains(summary string, err error) diag.Diagnostic {
	return diag.NewWarningDiagnostic(summary, sentence(err)+"\n\nWhat was asked for is done. It goes with the next VM that is moved or "+
		"deleted, with the next release of a base, or when the retain of a base changes.")
}

// settle writes what the VM is after an update that failed. If it cannot be asked, state stays as it was.
func (r *vmResource) settle(ctx context.Context, vms vm.Interface, state vmModel, report *agentapi.Report, delta int64, resp *resource.UpdateResponse) {
	if report != nil {
		resp.Diagnostics.Append(state.fromReport(ctx, report, delta)...)
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	found, err := vms.Read(look, state.Name.ValueString())
	switch {
	case err != nil:
		resp.Diagnostics.AddWarning("Unable to see what "+vmName(state.Name.ValueString())+" is after the failure",
			sentence(err)+" State keeps what it was before; the next plan looks again.")
	case found.Spec.UUID == state.UUID.ValueString():
		resp.Diagnostics.Append(state.observe(ctx, found)...)
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
}

// Delete implements resource.Resource.
func (r *vmResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state vmModel
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
	progress := newProgress(ctx, vmName(name))
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err == nil {
		err = backend.VMs().Delete(ctx, name, state.UUID.ValueString(), progress.step)
	}
	if errors.Is(err, vm.ErrOther) || errors.Is(err, hypervisor.ErrForeign) {
		resp.Diagnostics.AddWarning(vmName(name)+" is another VM now", fmt.Sprintf(
			"State has UUID %s: %s. The other one is left alone.", state.UUID.ValueString(), sentence(err)))
		return
	}
	if errors.Is(err, vm.ErrRemains) {
		resp.Diagnostics.Append(remains("What "+vmName(name)+" ran is still in the storage pool", err))
		return
	}
	if err != nil && !errors.Is(err, vm.ErrNotFound) {
		resp.Diagnostics.Append(failed(failure{
			do: "delete", object: vmName(name), step: progress.at(), timeout: "timeouts.delete", err: err,
		})...)
	}
}

// ImportState implements resource.ResourceWithImportState: a VM is imported by its name.
func (r *vmResource) ImportState(ctx context.Context, req resource.ImportStateRequest, resp *resource.ImportStateResponse) {
	resource.ImportStatePassthroughID(ctx, path.Root("name"), req, resp)
}

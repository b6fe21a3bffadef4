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
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmResource is sharedos_vm: a VM that runs a base and keeps its own data on a private disk.
type vmResource struct{ connected }

var (
	_ resource.ResourceWithConfigure   = (*vmResource)(nil)
	_ resource.ResourceWithImportState = (*vmResource)(nil)
)

// Metadata implements resource.Resource.
func (r *vmResource) Metadata(_ context.Context, req resource.MetadataRequest, resp *resource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_vm"
}

// Create implements resource.Resource. If it fails or is interrupted, a VM that was defined by then is in state
// afterwards.
func (r *vmResource) Create(ctx context.Context, req resource.CreateRequest, resp *resource.CreateResponse) {
	var plan vmModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	if resp.Diagnostics.HasError() {
		return
	}
	limit, diags := plan.Timeouts.Create(ctx, vmWriteTimeout)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(plan.validate()...)
	spec, diags := plan.spec(ctx)
	resp.Diagnostics.Append(diags...)
	var config vmModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	resp.Diagnostics.Append(config.secrets(ctx, &spec)...)
	if resp.Diagnostics.HasError() {
		return
	}
	progress := newProgress(ctx, vmName(spec.Name))
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err == nil {
		spec.UUID, err = backend.VMs().Interrupted(ctx, spec.Name)
	}
	switch {
	case err == nil && spec.UUID == "":
		spec.UUID = newUUID()
	case err == nil:
		progress.step("continuing a creation that was interrupted")
	}
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "create", object: vmName(spec.Name),
			step: progress.at(), err: err})...)
		return
	}
	bounded, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	made, err := backend.VMs().Create(bounded, spec, progress.step)
	if err == nil {
		err = cmp.Or(powerMatches(spec, made), plan.stackMatches(ctx, made))
	}
	if err != nil {
		r.unfinished(ctx, backend.VMs(), &plan, spec, progress, err, resp)
		return
	}
	r.connection.madeVM(spec.UUID)
	observed := plan
	resp.Diagnostics.Append(observed.observe(ctx, made)...)
	resp.Diagnostics.Append(noAddress(made)...)
	plan.complete(&observed)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	resp.Diagnostics.Append(identify(ctx, resp.Identity, vmIdentityUUID, spec.UUID)...)
}

// unfinished ends a Create that failed or was interrupted. A VM that was defined by then is written to state, so that
// it can be destroyed. If the user interrupted Create, the next apply finishes the VM in place. In this case the
// diagnostic is a warning, because after an error Terraform would replace the VM.
func (r *vmResource) unfinished(ctx context.Context, vms vm.Interface, plan *vmModel, spec vm.Spec, progress *progress,
	cause error, resp *resource.CreateResponse) {
	fail := failure{do: "create", object: vmName(spec.Name), step: progress.at(),
		timeout: "timeouts.create", err: cause}
	if errors.Is(cause, vm.ErrExists) || errors.Is(cause, hypervisor.ErrForeign) {
		fail.next = fmt.Sprintf("Nothing was changed. Choose another name, remove that VM, or, if this provider made "+
			"it, import it: run terraform import with "+itsAddress+" and %s.", spec.Name)
		resp.Diagnostics.Append(failedAt(path.Root("name"), fail)...)
		return
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	if ctx.Err() == nil { // Terraform replaces it, and it must not come up with the host
		spec.LifeCycle.Protected, spec.LifeCycle.Autostart = false, false
		if err := vms.SetLifeCycle(look, spec.Name, spec.UUID, spec.LifeCycle); err != nil &&
			!errors.Is(err, vm.ErrNotFound) && !errors.Is(err, vm.ErrOther) {
			fail.err = errors.Join(cause, err)
		}
	}
	found, err := vms.Read(look, spec.Name)
	if errors.Is(err, vm.ErrNotFound) || err == nil && found.Spec.UUID != spec.UUID {
		resp.Diagnostics.Append(failed(fail)...) // the VM was not defined
		return
	}
	observed := *plan
	if err != nil {
		// The VM may exist although it could not be read.
		found = &vm.VM{Spec: spec}
		fail.err = errors.Join(cause, err)
	}
	r.connection.madeVM(spec.UUID)
	resp.Diagnostics.Append(observed.observe(ctx, found)...)
	plan.complete(&observed)
	resp.Diagnostics.Append(resp.State.Set(ctx, plan)...)
	resp.Diagnostics.Append(identify(ctx, resp.Identity, vmIdentityUUID, spec.UUID)...)
	resp.Diagnostics.Append(markUnfinished(ctx, resp.Private, progress.at())...)
	if ctx.Err() != nil {
		resp.Diagnostics.AddWarning("Interrupted while creating "+vmName(spec.Name), fmt.Sprintf(
			"It was at the step: %s.\n\nThe work done so far is kept, and the VM is in state. Apply again to finish "+
				"it in place.", progress.at()))
		return
	}
	fail.next = "The VM is in state as it is. The next apply replaces it. To finish it in place instead, " +
		"first run terraform untaint with " + itsAddress + "."
	if step := nextStep(cause, ""); step != "" && !errors.Is(cause, context.DeadlineExceeded) {
		fail.next = step + "\n\n" + fail.next
	}
	resp.Diagnostics.Append(failed(fail)...)
	resp.Diagnostics.Append(startProblems(look, vms, spec, found.State)...)
}

// noAddress warns of a VM that was started or changed and has no address.
func noAddress(found *vm.VM) (diags diag.Diagnostics) {
	if found.Unreachable && found.ReadySeconds > 0 {
		diags.AddAttributeWarning(path.Root("interfaces"), vmName(found.Spec.Name)+" has no address",
			"Its services have started, and none of its network interfaces has got an address, so SSH does not "+
				"answer. Bases with systemd-networkd use DHCP unless they configure the network themselves: check "+
				"that a DHCP server answers in its network, or give the VM an address in a file below "+
				"/etc/systemd/network. See networkctl in the VM.")
	}
	return diags
}

// powerMatches fails if the power state of a VM is not the configured one although no step failed.
func powerMatches(spec vm.Spec, found *vm.VM) error {
	switch {
	case spec.Running && found.State != hypervisor.Running:
		return fmt.Errorf("the VM is %s, but running is true in the configuration", stateName(found.State))
	case !spec.Running && found.State != hypervisor.Off:
		return fmt.Errorf("the VM is %s, but running is false in the configuration", stateName(found.State))
	default:
		return nil
	}
}

// Read implements resource.Resource. A VM is removed from state only if libvirt says that it does not exist. If the
// agent does not answer, only the attribute that says so changes.
func (r *vmResource) Read(ctx context.Context, req resource.ReadRequest, resp *resource.ReadResponse) {
	var state vmModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	name := state.Name.ValueString()
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	resp.Diagnostics.Append(identify(ctx, resp.Identity, vmIdentityUUID, state.UUID.ValueString())...)
	imported := state.UUID.IsNull()
	backend, err := r.connection.get(ctx)
	if errors.Is(err, errUnknownConfig) && !imported {
		resp.Diagnostics.AddWarning("Unable to refresh "+vmName(name), sentence(err)+" The state is unchanged.")
		return
	}
	var found *vm.VM
	known, current := state.UUID.ValueString(), ""
	if err == nil {
		current, err = backend.VMs().Find(ctx, name, known)
	}
	if err == nil {
		found, err = backend.VMs().Read(ctx, current)
	}
	switch {
	case errors.Is(err, vm.ErrNotFound) && !imported:
		resp.State.RemoveResource(ctx)
		return
	case errors.Is(err, vm.ErrOther):
		resp.Diagnostics.AddWarning(vmName(name)+" is another VM now",
			fmt.Sprintf("The VM in state has UUID %s. %s The VM in state no "+
				"longer exists and is removed from state. The other VM is left alone.", known, sentence(err)))
		resp.State.RemoveResource(ctx)
		return
	case known != "" && (errors.Is(err, hypervisor.ErrForeign) || errors.Is(err, hypervisor.ErrDamaged)):
		resp.Diagnostics.AddWarning("The record of "+vmName(name)+" in its domain is lost",
			sentence(err)+" Somebody has edited the metadata of the domain, so that it is not known what the VM "+
				"runs. The state is unchanged. To make the VM anew, run terraform apply -replace= with "+itsAddress+
				". A domain without this provider's metadata is never deleted: undefine it by hand before that (virsh undefine).")
		return
	case err != nil:
		resp.Diagnostics.Append(failed(failure{do: "read", object: vmName(name), err: err})...)
		return
	case known != "" && known != found.Spec.UUID:
		// The VM in state no longer exists, and another VM has its name.
		resp.Diagnostics.AddWarning(vmName(name)+" is another VM now", fmt.Sprintf(
			"The VM in state has UUID %s, but libvirt has a VM with UUID %s under this name. The VM in state no "+
				"longer exists and is removed from state. The other VM is left alone.", known,
			showable(found.Spec.UUID)))
		resp.State.RemoveResource(ctx)
		return
	}
	if current != name && known != "" {
		resp.Diagnostics.AddAttributeWarning(path.Root("name"),
			vmName(name)+" was renamed to "+plain.Line(current), fmt.Sprintf(
				"The VM is found by its UUID. A VM with another name is another VM to this provider, so the plan "+
					"replaces it. To keep it, rename it back, while it is off, with: virsh domrename %s "+
					"%s", plain.Line(current), name))
	}
	if found.Unrecorded && known != "" {
		if err := backend.VMs().Recorded(ctx, known); err != nil {
			resp.Diagnostics.AddWarning("Unable to record that "+vmName(name)+" is in state",
				sentence(err)+" The next read tries it again.")
		}
	}
	if found.State == hypervisor.Running && !found.Answered && known != "" {
		resp.Diagnostics.AddWarning("The agent of "+vmName(name)+" does not answer",
			failure{err: cmp.Or(found.NoAnswer, vm.ErrNoAnswer), next: silenceHint(found.NoAnswer)}.detail())
	}
	if refused := limited(found.Agent.GetRefused()); len(refused) > 0 {
		resp.Diagnostics.AddWarning(vmName(name)+" did not boot the stack in its definition",
			"The agent in the VM says:"+plain.Guest(refused...)+
				"\nIt runs base "+found.Stack.Base.String()+
				". Change the configuration to a base that boots, or power "+
				"the VM off and start it to try this one again.")
	}
	if found.Rollout != nil {
		r.connection.noteFound(found)
	}
	resp.Diagnostics.Append(r.connection.notes().newToken(ctx, resp.Private)...)
	resp.Diagnostics.Append(warnings(name, found)...)
	resp.Diagnostics.Append(state.observe(ctx, found)...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
	resp.Diagnostics.Append(identify(ctx, resp.Identity, vmIdentityUUID, found.Spec.UUID)...)
	r.connection.noteRead(state.UUID.ValueString())
	r.connection.noteState(state.UUID.ValueString())
}

// silenceHint says what to do about an agent that does not answer.
func silenceHint(why error) string {
	if errors.Is(why, vm.ErrOperator) {
		return nextStep(why, "")
	}
	return "It is not known what the VM runs, so state keeps the last report. Its console log on the host shows how far it booted."
}

// warnings says in what a VM differs from its stack. Every plan shows it until that has changed.
func warnings(name string, found *vm.VM) (diags diag.Diagnostics) {
	var broken []string
	for _, fault := range found.Faults {
		broken = append(broken, plain.Line(fault.Object+": "+fault.Problem))
	}
	if len(broken) > 0 {
		diags.AddAttributeWarning(path.Root("faults"), vmName(name)+" lacks something that it needs",
			strings.Join(broken, "\n")+
				"\n\nterraform destroy is possible nevertheless.")
	}
	if lines := guestTexts(found.Agent.GetUnreadable()); len(lines) > 0 {
		diags.AddAttributeWarning(path.Root("unreadable"),
			vmName(name)+" cannot read the operating system that it runs",
			"The agent in the VM says:"+plain.Guest(lines...)+
				"\nPrograms that it has not read yet fail, and no refresh is possible. If the volume of the layer is "+
				"in the storage pool, power the VM off and start it, which attaches all layers again. If the volume "+
				"is gone, publish the release again or change base to another release first. The VM's own data is on "+
				"its private disk and is not affected.")
	}
	if lines := guestTexts(found.Agent.GetRemaining()); len(lines) > 0 {
		diags.AddAttributeWarning(path.Root("remaining"), vmName(name)+" still runs old code",
			"The agent in the VM says:"+plain.Guest(lines...)+
				"\nA refresh has brought new files, and these processes use the ones from before. Restart the units, "+
				"end the sessions, or set refresh.strategy to \"soft_reboot\" for the next change.")
	}
	return diags
}

// Update implements resource.Resource. Everything except the name changes in place. If it fails, state describes what
// the VM runs, so that the next apply tries again.
func (r *vmResource) Update(ctx context.Context, req resource.UpdateRequest, resp *resource.UpdateResponse) {
	var plan, state vmModel
	resp.Diagnostics.Append(req.Plan.Get(ctx, &plan)...)
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(identify(ctx, resp.Identity, vmIdentityUUID, state.UUID.ValueString())...)
	limit, diags := plan.Timeouts.Update(ctx, vmWriteTimeout)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(plan.validate()...)
	spec, diags := plan.spec(ctx)
	resp.Diagnostics.Append(diags...)
	var config vmModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	config.keepUnset(&spec)
	resp.Diagnostics.Append(config.secrets(ctx, &spec)...)
	if plan.Drift.IsUnknown() {
		spec.Overwrite = state.drifted()
	}
	if plan.AttachedOnDemand.IsUnknown() {
		spec.Attached = texts(ctx, state.AttachedOnDemand, &resp.Diagnostics)
	}
	resume, diags := isUnfinished(ctx, req.Private)
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	progress := newProgress(ctx, vmName(spec.Name))
	progress.step("connecting")
	backend, err := r.connection.get(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "update", object: vmName(spec.Name),
			step: progress.at(), err: err})...)
		return
	}
	if !plan.updates() {
		progress.step("changing what libvirt alone knows")
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if err := backend.VMs().SetLifeCycle(bounded, spec.Name, spec.UUID, spec.LifeCycle); err != nil {
			resp.Diagnostics.Append(notUpdated(spec, nil, progress, err)...)
			r.saveAfterFailure(ctx, backend.VMs(), spec, state, nil, 0, resp)
			return
		}
		resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
		return
	}
	updated, report, err := update(ctx, backend.VMs(), spec, resume, limit, progress)
	if err == nil {
		err = cmp.Or(powerMatches(spec, updated), plan.stackMatches(ctx, updated))
	}
	var delta int64
	if report != nil {
		var sizeErr error
		if delta, sizeErr = state.newLayerBytes(ctx, backend.Publisher(), spec); sizeErr != nil {
			resp.Diagnostics.AddWarning("Unable to determine the size of the new layers of "+vmName(spec.Name),
				sentence(sizeErr))
		}
	}
	if err != nil {
		resp.Diagnostics.Append(notUpdated(spec, report, progress, err)...)
		r.saveAfterFailure(ctx, backend.VMs(), spec, state, report, delta, resp)
		return
	}
	observed := state
	resp.Diagnostics.Append(observed.fromImpact(ctx, reached(report.GetImpact()))...)
	if report != nil && !updated.AwaitsPowerCycle { // otherwise the guest was left alone
		resp.Diagnostics.Append(observed.fromReport(ctx, report, delta)...)
	}
	resp.Diagnostics.Append(observed.observe(ctx, updated)...)
	observed.AttachedOnDemand = observed.detachedOff(spec)
	resp.Diagnostics.Append(noAddress(updated)...)
	resp.Diagnostics.Append(failingChecks(spec.Name, report.GetUnchecked(), false)...)
	resp.Diagnostics.Append(unmatchedUnits(spec, report.GetImpact())...)
	if failed := failedStarts(report); len(failed) > 0 {
		resp.Diagnostics.AddAttributeWarning(path.Root("last_refresh").AtName("started"),
			"A unit that the new release of "+vmName(spec.Name)+" starts has failed",
			"The agent in the VM says:"+plain.Guest(failed...)+
				"\nThe unit did not run before, so the refresh was not rolled back for it. See its log in the VM (journalctl -u).")
	}
	if updated.OtherAgent != "" {
		resp.Diagnostics.AddWarning("The agent of "+vmName(spec.Name)+" was not replaced",
			"The reason is:"+plain.Guest(updated.OtherAgent)+
				"\nThe update itself is complete, and the VM keeps its present agent. The next start of the VM "+
				"installs the provider's.")
	}
	if updated.NotCollected != nil {
		resp.Diagnostics.Append(notCollected("Unable to delete the layers that "+vmName(spec.Name)+" no longer uses",
			updated.NotCollected))
	}
	plan.complete(&observed)
	resp.Diagnostics.Append(resp.State.Set(ctx, &plan)...)
	resp.Diagnostics.Append(markFinished(ctx, resp.Private)...)
}

// update makes the VM match spec. If its creation was interrupted, it is finished first.
func update(ctx context.Context, vms vm.Interface, spec vm.Spec, resume bool, limit time.Duration,
	progress *progress) (*vm.VM, *agentapi.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if resume {
		if _, err := vms.Create(ctx, spec, progress.step); err != nil {
			return nil, nil, err
		}
	}
	return vms.Update(ctx, spec, progress.step)
}

// notUpdated says why an update failed and what the VM runs now.
func notUpdated(spec vm.Spec, report *agentapi.Report, progress *progress, err error) diag.Diagnostics {
	fail := failure{do: "update", object: vmName(spec.Name), step: progress.at(), timeout: "timeouts.update", err: err}
	switch {
	case errors.Is(err, vm.ErrNotLive):
		return notLive("update", spec.Name, err)
	case errors.Is(err, vm.ErrOther):
		fail.next = "Nothing was changed. The next plan removes the VM in state from state, and leaves the other VM " +
			"alone."
		return failedAt(path.Root("name"), fail)
	case errors.Is(err, errOtherStack):
		fail.next = "What the change interrupts has changed since the plan, so that refresh.strategy no longer " +
			"allows it in the running VM, or the VM was started meanwhile. State says what it runs. Plan again to " +
			"see what is left to do."
		return failedAt(path.Root("stack"), fail)
	case errors.Is(err, vm.ErrImpact):
		if impact := report.GetImpact(); impact != nil {
			return tooLarge(spec.Name, impact, levelName(spec.Refresh.MaxImpact))
		}
		return failedAt(path.Root("refresh").AtName("max_impact"), fail)
	case errors.Is(err, vm.ErrTakenBack):
		fail.next = "The guest has the configuration that it had before, and state says so. Fix the cause, such as a " +
			"unit that does not start, and apply again."
		return failed(fail)
	case errors.Is(err, vm.ErrNotConfigured):
		fail.next = "If something was changed in the guest, plan again: the plan shows it in configuration_drift, " +
			"and its apply overwrites it. A file that this configuration has not written is never overwritten: " +
			"remove it in the guest first."
		return failed(fail)
	case errors.Is(err, vm.ErrRolledBack):
		fail.do = "refresh"
		fail.next = "The VM runs what it ran before, and state says so. Fix the cause, such as the base or a health " +
			"check, and apply again."
		var units []string
		for _, restart := range report.GetRestarts() {
			if restart.GetError() != "" {
				units = append(units, restart.GetUnit()+": "+restart.GetError())
			}
		}
		if len(units) > 0 {
			fail.err = fmt.Errorf("%w\nUnits that failed:%s", fail.err, plain.Guest(units...))
		}
		return failedAt(path.Root("base"), fail)
	default:
		return failed(fail)
	}
}

// notCollected warns that unreferenced volumes were not deleted. The operation on the VM itself succeeded.
func notCollected(summary string, err error) diag.Diagnostic {
	return diag.NewWarningDiagnostic(summary, sentence(err)+"\n\nThe operation itself is complete. The data that "+
		"nothing refers to any more is deleted when the next VM is moved or deleted, when the next release of a base "+
		"is published, or when retain of a base changes.")
}

// saveAfterFailure writes the actual VM to state after an update that failed. If the VM cannot be read, the state stays
// as it was.
func (r *vmResource) saveAfterFailure(ctx context.Context, vms vm.Interface, spec vm.Spec, state vmModel,
	report *agentapi.Report, delta int64, resp *resource.UpdateResponse) {
	if report != nil {
		resp.Diagnostics.Append(state.fromReport(ctx, report, delta)...)
	}
	look, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout)
	defer cancel()
	found, err := vms.Read(look, state.Name.ValueString())
	switch {
	case err != nil:
		resp.Diagnostics.AddWarning("Unable to read "+vmName(state.Name.ValueString())+" after the failure",
			sentence(err)+" The state is unchanged. The next plan reads the VM again.")
	case found.Spec.UUID == state.UUID.ValueString():
		resp.Diagnostics.Append(state.observe(ctx, found)...)
		if ctx.Err() == nil {
			resp.Diagnostics.Append(startProblems(look, vms, spec, found.State)...)
		}
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &state)...)
}

// Delete implements resource.Resource. A VM that is protected, in state or as its domain records it, is not deleted.
func (r *vmResource) Delete(ctx context.Context, req resource.DeleteRequest, resp *resource.DeleteResponse) {
	var state vmModel
	resp.Diagnostics.Append(req.State.Get(ctx, &state)...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(state.keepProtected(ctx, "delete", req.Private)...)
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
			"The VM in state has UUID %s. %s The other VM is left alone.", state.UUID.ValueString(), sentence(err)))
		return
	}
	if errors.Is(err, vm.ErrProtected) {
		resp.Diagnostics.Append(protectedVM("delete", name, err)...)
		return
	}
	if errors.Is(err, vm.ErrLeft) {
		resp.Diagnostics.AddWarning(vmName(name)+" is deleted, and a volume was left", sentence(err))
		return
	}
	if errors.Is(err, vm.ErrNotCollected) {
		resp.Diagnostics.Append(notCollected("Unable to delete the layers that "+vmName(name)+" used", err))
		return
	}
	if err != nil && !errors.Is(err, vm.ErrNotFound) {
		resp.Diagnostics.Append(failed(failure{
			do: "delete", object: vmName(name), step: progress.at(), timeout: "timeouts.delete", err: err,
		})...)
	}
}

// ImportState implements resource.ResourceWithImportState: a VM is imported by its name, or by its identity.
func (r *vmResource) ImportState(ctx context.Context, req resource.ImportStateRequest,
	resp *resource.ImportStateResponse) {
	name := req.ID
	if name == "" {
		var uuid string
		if resp.Diagnostics.Append(req.Identity.GetAttribute(ctx, path.Root(vmIdentityUUID),
			&uuid)...); resp.Diagnostics.HasError() {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, readTimeout)
		defer cancel()
		backend, err := r.connection.get(ctx)
		if err == nil {
			name, err = backend.VMs().Find(ctx, "", uuid)
		}
		if err != nil {
			resp.Diagnostics.Append(failed(failure{do: "import",
				object: "the VM with UUID " + showable(uuid), err: err})...)
			return
		}
	}
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("name"), name)...)
}

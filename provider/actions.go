package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/actionvalidator"
	"github.com/hashicorp/terraform-plugin-framework/action"
	"github.com/hashicorp/terraform-plugin-framework/action/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

var _ provider.ProviderWithActions = (*Provider)(nil)

// Actions implements provider.ProviderWithActions. An action does something once, when it is asked
// for, and changes no configuration.
func (p *Provider) Actions(context.Context) []func() action.Action {
	return []func() action.Action{
		func() action.Action { return &refreshAction{} },
		func() action.Action { return &rebootAction{} },
		func() action.Action { return &kernelAction{} },
		func() action.Action { return &verifyAction{} },
	}
}

// connectedAction is connected for actions.
type connectedAction struct{ connected }

// Configure implements action.ActionWithConfigure.
func (c *connectedAction) Configure(_ context.Context, req action.ConfigureRequest, resp *action.ConfigureResponse) {
	c.set(req.ProviderData, &resp.Diagnostics)
}

var (
	_ action.ActionWithConfigure      = (*refreshAction)(nil)
	_ action.ActionWithValidateConfig = (*refreshAction)(nil)
	_ action.ActionWithConfigure      = (*rebootAction)(nil)
	_ action.ActionWithValidateConfig = (*rebootAction)(nil)
	_ action.ActionWithConfigure      = (*kernelAction)(nil)
	_ action.ActionWithValidateConfig = (*kernelAction)(nil)
	_ action.ActionWithConfigure      = (*verifyAction)(nil)
)

// refreshAction is sharedos_refresh: it moves a running VM to the stack in its definition.
type refreshAction struct{ connectedAction }

// rebootAction is sharedos_reboot: it powers a VM off and starts it.
type rebootAction struct{ connectedAction }

// kernelAction is sharedos_start_pending_kernel: it does the same to a VM that runs another kernel
// than its definition has.
type kernelAction struct{ connectedAction }

// verifyAction is sharedos_verify: it fails if something in the pool is damaged.
type verifyAction struct{ connectedAction }

// Metadata implements action.Action.
func (*refreshAction) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_refresh"
}

// Metadata implements action.Action.
func (*rebootAction) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_reboot"
}

// Metadata implements action.Action.
func (*kernelAction) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_start_pending_kernel"
}

// Metadata implements action.Action.
func (*verifyAction) Metadata(_ context.Context, req action.MetadataRequest, resp *action.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_verify"
}

// vmActionModel is what all actions on a VM have.
type vmActionModel struct {
	VM      types.String `tfsdk:"vm"`
	Timeout types.String `tfsdk:"timeout"`
}

type refreshActionModel struct {
	vmActionModel
	vmRefresh
}

// rebootActionModel is what actions have that start a VM.
type rebootActionModel struct {
	vmActionModel
	vmReady
}

// rebootActionAttributes are those of an action that starts a VM.
func rebootActionAttributes() map[string]schema.Attribute {
	attributes := vmActionAttributes()
	ready := readyAttribute()
	ready.MarkdownDescription = "What it waits for after the services have started, such as `sharedos_vm.web.ready`."
	attributes["ready"] = configuredInAction(map[string]resource.Attribute{"ready": ready})["ready"]
	return attributes
}

func vmActionAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"vm": schema.StringAttribute{
			Required: true, MarkdownDescription: "Name of the VM.", Validators: []validator.String{isName},
		},
		"timeout": schema.StringAttribute{
			Optional: true, Validators: []validator.String{isActionTimeout},
			MarkdownDescription: "How long it may take, such as `90s` or `1h30m`. Default: `" +
				shortDuration(vmWriteTimeout) + "`.",
		},
	}
}

// isActionTimeout accepts a limit of an action.
var isActionTimeout = textRule{
	form:  `a duration from 1s to 24h, such as "90s" or "1h30m"`,
	check: func(text string) error { return durationWithin(text, time.Second, 24*time.Hour) },
}

// Schema implements action.Action.
func (*refreshAction) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	attributes := vmActionAttributes()
	refresh := refreshAttribute()
	refresh.MarkdownDescription = "How the VM may be moved, such as `sharedos_vm.web.refresh`. What is not set is as in the resource. The strategy " +
		"`next_boot` is refused, since it would do nothing."
	attributes["refresh"] = configuredInAction(map[string]resource.Attribute{"refresh": refresh})["refresh"]
	resp.Schema = schema.Schema{
		MarkdownDescription: "Moves a running VM now to the stack in its definition, where an apply has left it with " +
			"another one: because the strategy did not allow more, or because a refresh was rolled back. A VM that " +
			"runs this stack is left alone. It fails if the VM does not run the stack afterwards.",
		Attributes: attributes,
	}
}

// Schema implements action.Action.
func (*rebootAction) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Powers a running VM off and starts it, and waits until its services have started. It " +
			"then runs the stack, the kernel and the hardware in its definition, which a reboot from within the " +
			"guest does not reach. A guest that does not shut down by itself is powered off.",
		Attributes: rebootActionAttributes(),
	}
}

// Schema implements action.Action.
func (*kernelAction) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Starts the kernel that waits for the next start of a running VM: it powers the VM off " +
			"and starts it, as the action `sharedos_reboot` does. A VM that runs the kernel of its definition is " +
			"left alone.",
		Attributes: rebootActionAttributes(),
	}
}

// ConfigValidators implements action.ActionWithConfigValidators.
func (*verifyAction) ConfigValidators(context.Context) []action.ConfigValidator {
	return []action.ConfigValidator{actionvalidator.Conflicting(path.MatchRoot("base"), path.MatchRoot("component"))}
}

// Schema implements action.Action.
func (*verifyAction) Schema(_ context.Context, _ action.SchemaRequest, resp *action.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Reads everything that the releases in the pool refer to, compares it with its ids, and " +
			"fails if something is missing or damaged. The data source `sharedos_verify` tells the same without " +
			"failing.",
		Attributes: map[string]schema.Attribute{
			"base": schema.StringAttribute{Optional: true, Validators: []validator.String{isName},
				MarkdownDescription: "Name of the base whose releases are verified. Default: all bases and components."},
			"component": schema.StringAttribute{
				Optional: true, Validators: []validator.String{isName},
				MarkdownDescription: "Name of the component whose releases are verified. At most one of `base` and `component` is set.",
			},
		},
	}
}

// configuredInAction is the schema of a resource's configurable attributes in an action. Nothing of
// an action is computed, and it has no defaults.
func configuredInAction(attributes map[string]resource.Attribute) map[string]schema.Attribute {
	own := make(map[string]schema.Attribute, len(attributes))
	for name, attribute := range attributes {
		switch a := attribute.(type) {
		case resource.StringAttribute:
			own[name] = schema.StringAttribute{
				Required: a.Required, Optional: !a.Required, CustomType: a.CustomType, Validators: a.Validators,
				MarkdownDescription: a.MarkdownDescription,
			}
		case resource.BoolAttribute:
			own[name] = schema.BoolAttribute{Required: a.Required, Optional: !a.Required, Validators: a.Validators,
				MarkdownDescription: a.MarkdownDescription}
		case resource.ListAttribute:
			own[name] = schema.ListAttribute{
				Required: a.Required, Optional: !a.Required, ElementType: a.ElementType, Validators: a.Validators,
				MarkdownDescription: a.MarkdownDescription,
			}
		case resource.SingleNestedAttribute:
			own[name] = schema.SingleNestedAttribute{
				Required: a.Required, Optional: !a.Required, Validators: a.Validators,
				MarkdownDescription: a.MarkdownDescription,
				Attributes:          configuredInAction(a.Attributes),
			}
		case resource.MapNestedAttribute:
			own[name] = schema.MapNestedAttribute{
				Required: a.Required, Optional: !a.Required, Validators: a.Validators,
				MarkdownDescription: a.MarkdownDescription,
				NestedObject: schema.NestedAttributeObject{Attributes: configuredInAction(
					a.NestedObject.Attributes)},
			}
		}
	}
	return own
}

// ValidateConfig implements action.ActionWithValidateConfig.
func (*refreshAction) ValidateConfig(ctx context.Context, req action.ValidateConfigRequest,
	resp *action.ValidateConfigResponse) {
	var model refreshActionModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &model)...); !resp.Diagnostics.HasError() {
		resp.Diagnostics.Append(model.validate()...)
	}
}

// validateReady checks the configuration of an action that starts a VM.
func validateReady(ctx context.Context, req action.ValidateConfigRequest, resp *action.ValidateConfigResponse) {
	var model rebootActionModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &model)...); !resp.Diagnostics.HasError() {
		resp.Diagnostics.Append(model.validate()...)
	}
}

// ValidateConfig implements action.ActionWithValidateConfig.
func (*rebootAction) ValidateConfig(ctx context.Context, req action.ValidateConfigRequest,
	resp *action.ValidateConfigResponse) {
	validateReady(ctx, req, resp)
}

// ValidateConfig implements action.ActionWithValidateConfig.
func (*kernelAction) ValidateConfig(ctx context.Context, req action.ValidateConfigRequest,
	resp *action.ValidateConfigResponse) {
	validateReady(ctx, req, resp)
}

// ofAction takes the attributes from diagnostics of a resource, which an action does not have.
func ofAction(diags diag.Diagnostics) diag.Diagnostics {
	var plain diag.Diagnostics
	for _, d := range diags {
		if d.Severity() == diag.SeverityWarning {
			plain.AddWarning(d.Summary(), d.Detail())
		} else {
			plain.AddError(d.Summary(), d.Detail())
		}
	}
	return plain
}

// onVM is an action on a running VM whose agent answers.
type onVM struct {
	do       string
	name     string
	found    *vm.VM
	vms      vm.Interface
	progress *progress
	tell     func(string)
}

// begin finds the VM of an action. Without diagnostics of an error, it runs. The caller calls done.
func (c *connectedAction) begin(ctx context.Context, do string, model vmActionModel,
	resp *action.InvokeResponse) (_ context.Context, done func(), on *onVM) {
	limit := cmp.Or(duration(model.Timeout), vmWriteTimeout)
	ctx, done = context.WithTimeout(ctx, limit)
	on = &onVM{do: do, name: model.VM.ValueString()}
	on.progress = newProgress(ctx, vmName(on.name))
	on.tell = func(step string) {
		on.progress.step(step)
		if ctx.Err() == nil { // nobody reads it otherwise
			resp.SendProgress(action.InvokeProgressEvent{Message: vmName(on.name) + ": " + showable(step)})
		}
	}
	on.tell("connecting")
	backend, err := c.connection.get(ctx)
	if err == nil {
		on.vms = backend.VMs()
		on.found, err = on.vms.Read(ctx, on.name)
	}
	if err == nil && on.found.State != hypervisor.Running {
		err = fmt.Errorf("%w: it is %s", hypervisor.ErrNotRunning, stateName(on.found.State))
	}
	if err != nil {
		next := ""
		if errors.Is(err, hypervisor.ErrNotRunning) {
			next = "Start it with running = true, or with virsh."
		}
		resp.Diagnostics.Append(on.failed(err, next)...)
	}
	return ctx, done, on
}

func (on *onVM) failed(err error, next string) diag.Diagnostics {
	return failed(failure{do: on.do, object: vmName(on.name), step: on.progress.at(),
		timeout: "timeout", err: err, next: next})
}

// warnAfter warns of what is left after an action that succeeded.
func (on *onVM) warnAfter(now *vm.VM) (diags diag.Diagnostics) {
	diags.Append(noAddress(now)...)
	if now.NotCollected != nil {
		diags.Append(notCollected("Unable to delete the layers that "+vmName(on.name)+" no longer uses",
			now.NotCollected))
	}
	return ofAction(diags)
}

// Invoke implements action.Action.
func (a *refreshAction) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var model refreshActionModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &model)...); resp.Diagnostics.HasError() {
		return
	}
	policy, diags := model.withDefaults(ctx)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	ctx, done, on := a.begin(ctx, "refresh", model.vmActionModel, resp)
	defer done()
	if resp.Diagnostics.HasError() {
		return
	}
	spec := on.found.Spec
	spec.Refresh = policy.Once(on.found.Rollout) // whoever invokes the action moves the VM now
	switch {
	case silent(on.found):
		resp.Diagnostics.Append(on.failed(cmp.Or(on.found.NoAnswer, vm.ErrNoAnswer), "")...)
		return
	case policy.Strategy == vm.NextBoot:
		resp.Diagnostics.Append(
			on.failed(errors.New("refresh.strategy is next_boot, which leaves the running VM alone"),
				"Set refresh.strategy to another one, or use the action sharedos_reboot.")...)
		return
	case on.found.Stack.Same(on.found.Configured):
		on.tell("it runs the stack in its definition, so nothing is to be done")
		return
	}
	spec.Disks = nil // they stay as they are
	updated, report, err := on.vms.Update(ctx, spec, on.tell)
	if err != nil {
		resp.Diagnostics.Append(ofAction(notUpdated(spec, report, on.progress, err))...)
		return
	}
	if !updated.Stack.Same(updated.Configured) {
		resp.Diagnostics.Append(on.failed(fmt.Errorf("the change needs %s, and refresh.strategy is %s:%s",
			levelName(report.GetImpact().GetLevel()),
			policy.Strategy, because(report.GetImpact())),
			"The VM runs what it ran before. Set refresh.strategy, and refresh.max_impact, to allow more.")...)
		return
	}
	on.tell("it runs the stack in its definition now")
	resp.Diagnostics.Append(on.warnAfter(updated)...)
	resp.Diagnostics.Append(ofAction(failingChecks(on.name, report.GetUnchecked(), false))...)
	resp.Diagnostics.Append(ofAction(unmatchedUnits(spec, report.GetImpact()))...)
	resp.Diagnostics.Append(ofAction(conflictWarning(report))...)
}

// reboot powers the VM of an action off and starts it.
func (on *onVM) reboot(ctx context.Context, model rebootActionModel) (*vm.VM, diag.Diagnostics) {
	var spec vm.Spec
	if diags := model.toSpec(ctx, &spec); diags.HasError() {
		return nil, diags
	}
	rebooted, err := on.vms.Reboot(ctx, on.found.Spec.UUID, spec.Ready, on.tell)
	if err != nil {
		return nil, on.failed(err, "")
	}
	on.tell("it runs again")
	return rebooted, on.warnAfter(rebooted)
}

// Invoke implements action.Action.
func (a *rebootAction) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var model rebootActionModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &model)...); resp.Diagnostics.HasError() {
		return
	}
	ctx, done, on := a.begin(ctx, "reboot", model.vmActionModel, resp)
	defer done()
	if resp.Diagnostics.HasError() {
		return
	}
	_, diags := on.reboot(ctx, model)
	resp.Diagnostics.Append(diags...)
}

// Invoke implements action.Action.
func (a *kernelAction) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	var model rebootActionModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &model)...); resp.Diagnostics.HasError() {
		return
	}
	ctx, done, on := a.begin(ctx, "start the pending kernel of", model.vmActionModel, resp)
	defer done()
	if resp.Diagnostics.HasError() {
		return
	}
	if silent(on.found) {
		resp.Diagnostics.Append(on.failed(cmp.Or(on.found.NoAnswer, vm.ErrNoAnswer),
			"It is not known which kernel it runs. The action "+
				"sharedos_reboot starts it in any case.")...)
		return
	}
	if runs, waits := on.found.Agent.GetKernel(), on.found.Configured.Kernel; runs == waits {
		on.tell("it runs kernel " + waits + ", and no other one waits, so nothing is to be done")
		return
	}
	now, diags := on.reboot(ctx, model)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	if runs := now.Agent.GetKernel(); now.Answered && runs != now.Configured.Kernel {
		resp.Diagnostics.Append(on.failed(fmt.Errorf("it was started, and runs kernel %s instead of %s",
			guestText(runs), now.Configured.Kernel), "")...)
	}
}

// Invoke implements action.Action.
func (a *verifyAction) Invoke(ctx context.Context, req action.InvokeRequest, resp *action.InvokeResponse) {
	base, component, diags := toVerify(ctx, req.Config)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	resp.SendProgress(action.InvokeProgressEvent{Message: "reading what the releases in the pool refer to"})
	found, err := verifyPool(ctx, a.connection, base, component)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "verify", object: "the pool", err: err})...)
		return
	}
	for _, one := range found.Damaged {
		resp.Diagnostics.Append(failed(failure{
			do: "verify", object: "volume " + one.Volume,
			err: fmt.Errorf("%s; these releases need it: %s", plain.Line(one.Problem),
				strings.Join(one.Releases, ", ")),
			next: "If the volume is there, delete it with virsh vol-delete. Then apply its base or component again.",
		})...)
	}
	if ctx.Err() == nil {
		resp.SendProgress(action.InvokeProgressEvent{
			Message: fmt.Sprintf("read %d volumes, %d bytes; %d are missing or damaged", found.Objects,
				found.Bytes, len(found.Damaged)),
		})
	}
}

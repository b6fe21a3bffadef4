package provider

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmRefresh is how a VM may be moved to another stack. Only the configuration and state have it,
// and the definition of a VM that takes part in rollouts.
type vmRefresh struct {
	Refresh types.Object `tfsdk:"refresh"`
}

var (
	_ vmBlock               = (*vmRefresh)(nil)
	_ vmBlockWithValidation = (*vmRefresh)(nil)
)

// refreshModel is the attribute refresh.
type refreshModel struct {
	Strategy       types.String `tfsdk:"strategy"`
	MaxImpact      types.String `tfsdk:"max_impact"`
	Settle         types.String `tfsdk:"settle"`
	RestartTimeout types.String `tfsdk:"restart_timeout"`
	Policy         types.String `tfsdk:"policy"`
	Units          types.Map    `tfsdk:"units"`
	HealthChecks   types.Map    `tfsdk:"health_checks"`
	RequireChecks  types.Bool   `tfsdk:"require_checks"`
	KeepFiles      types.List   `tfsdk:"keep_files"`
	Purge          types.Bool   `tfsdk:"purge"`
	By             types.String `tfsdk:"by"`
}

// unitPolicyModel is one value of the attribute refresh.units.
type unitPolicyModel struct {
	Policy types.String `tfsdk:"policy"`
	Paths  types.List   `tfsdk:"paths"`
}

// healthCheckModel is one value of the attribute refresh.health_checks.
type healthCheckModel struct {
	Unit    types.String `tfsdk:"unit"`
	HTTP    types.String `tfsdk:"http"`
	TCP     types.String `tfsdk:"tcp"`
	Command types.List   `tfsdk:"command"`
	Timeout types.String `tfsdk:"timeout"`
}

// strategies of a refresh, from the least disruptive one, and the one that leaves the running VM alone.
var strategies = []string{vm.Live, vm.SoftReboot, vm.Kexec, vm.Reboot, vm.NextBoot}

// What may be done with affected units.
const (
	policyRestart = "restart"
	policyReload  = "reload"
	policyReport  = "report"
)

// What moves a VM to other stacks.
const (
	byVM      = "vm"
	byRollout = "rollout"
)

// defaultCheckTimeout is how long a health check may take by default.
const defaultCheckTimeout = "30s"

func refreshAttribute() schema.SingleNestedAttribute {
	attributes := map[string]schema.Attribute{
		"strategy": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString(vm.Live),
			MarkdownDescription: "The most disruptive method that a refresh may use. It uses the least disruptive " +
				"method that is sufficient. `live`: `/usr` is swapped, and units that use changed files are " +
				"restarted. `soft_reboot`: userspace is restarted under the running kernel, for changes that cannot " +
				"be made live, such as another dynamic loader or message bus. `kexec`: the running kernel starts the " +
				"new one. `reboot`: the VM is powered off and started. Under `live` and `soft_reboot`, a new kernel " +
				"takes effect at the next power-off and start, and `pending` lists it. `next_boot`: nothing changes " +
				"until the VM is next powered off and started; this is also how a VM moves to another base or back " +
				"to an earlier release. A change that needs more than the strategy allows takes effect at the next " +
				"power-off and start, too. Default: `live`.",
			Validators: []validator.String{oneOf(strategies...)},
		},
		"max_impact": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString(levelName(agentapi.Level_RESTART)),
			MarkdownDescription: "The largest impact that a change may have: `none`, `reload`, `restart`, " +
				"`soft_reboot`, `kexec` or `reboot`. A plan with a larger impact fails and lists the reasons. " +
				"Changes of processors, memory and interfaces need `reboot`, whatever the strategy is. Default: " +
				"`restart`.",
			Validators: []validator.String{oneOf(levelNames()...)},
		},
		"settle": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString("5s"),
			MarkdownDescription: "How long the VM must stay healthy before a refresh is committed, at most `10m`. " +
				"Default: `5s`.",
			Validators: []validator.String{isDuration},
		},
		"restart_timeout": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "How long one unit may take to stop and start again, from `1s` to `20m`. If it " +
				"takes longer, the refresh is rolled back. The rollback is not limited by this: it starts the unit " +
				"again as soon as systemd has stopped it. Default: as long as the unit's own `TimeoutStopSec=` and " +
				"`TimeoutStartSec=` allow, or four minutes if these are shorter or infinite.",
			Validators: []validator.String{isRestartTimeout},
		},
		"policy": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString(policyRestart),
			MarkdownDescription: "What may be done with affected services. `restart`: they are restarted, or " +
				"reloaded where that is enough. `reload`: those that can be reloaded are reloaded, and the others " +
				"are left alone. `report`: all are left alone. Services that are left alone are listed in " +
				"`impact.left` and in `last_refresh.left` of the data source, and run old code until you restart them. Default: `restart`.",
			Validators: []validator.String{oneOf(policyRestart, policyReload, policyReport)},
		},
		"units": schema.MapNestedAttribute{
			Optional: true,
			MarkdownDescription: "Settings for single units, by the name of the unit: `{ \"nginx.service\" = { " +
				"policy = \"reload\" } }`. Another name of a unit stands for the unit, and a template, such as " +
				"`php-fpm@.service`, for all its instances. When a plan or an apply moves the running VM to another stack, it " +
				"warns about a name under which the VM has no unit.",
			Validators: []validator.Map{mapvalidator.KeysAre(isUnit)},
			NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
				"policy": schema.StringAttribute{
					Optional:            true,
					MarkdownDescription: "Like `refresh.policy`, for this unit only.",
					Validators:          []validator.String{oneOf(policyRestart, policyReload, policyReport)},
				},
				"paths": schema.ListAttribute{
					Optional: true, ElementType: types.StringType,
					MarkdownDescription: "Files that the unit uses but does not keep open or mapped: data that it " +
						"reads and closes, code that it loads later. When one of them changes, the unit is affected. " +
						"A path that ends in `/` stands for everything below it. If all changed files are below " +
						"`/etc`, a reload is enough.",
					Validators: []validator.List{listvalidator.SizeAtLeast(1),
						listvalidator.ValueStringsAre(isAbsolutePath)},
				},
			}},
		},
		"keep_files": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Files below `/etc` that a refresh leaves as the VM has them, without a warning: " +
				"absolute paths, in which `*`, `?` and `[...]` stand for parts of a name. A directory stands for " +
				"everything in it. A file that the VM does not have is created all the same.",
			Validators: []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(isEtcPattern)},
		},
		"purge": schema.BoolAttribute{
			Optional: true,
			MarkdownDescription: "Whether what a component brought goes with it when it leaves the VM: its files below `/etc`, `/var`, " +
				"`/home`, `/root` and `/srv` that nobody has changed, once the refresh has succeeded. A directory of data in which anything " +
				"was changed stays whole, such as that of a database. What stays is named by a warning. Accounts and what `keep_files` names " +
				"stay. It also holds for the files below `/etc` that a new release of a component no longer has. A VM that gets its stack " +
				"at a power-off and start does what its last refresh was told. Default: false, as after the removal of a package.",
		},
		"by": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "What moves the VM to other stacks. `vm`: this resource. `rollout`: a `sharedos_rollout` that names the VM. " +
				"Then `base`, `components`, `on_demand` and `prefer` count only when the VM is created: later changes of them are neither " +
				"planned nor made by this resource, and state has what a rollout gave the VM. The other settings of `refresh` are recorded in the libvirt " +
				"domain, and the rollout keeps to them. To begin with it, apply it before or with a change of `base`. Default: `vm`.",
			Validators: []validator.String{oneOf(byVM, byRollout)},
		},
		"require_checks": schema.BoolAttribute{
			Optional: true,
			MarkdownDescription: "Whether a refresh is refused if a health check fails before it. If it is false, " +
				"such a check does not count, and the plan and the apply warn about it. Default: false.",
		},
		"health_checks": schema.MapNestedAttribute{
			Optional: true,
			MarkdownDescription: "Health checks, by names of your choice. If one fails after a refresh and did not " +
				"fail before it, the refresh is rolled back. Each has exactly one of `unit`, `http`, `tcp` and " +
				"`command`.",
			NestedObject: healthCheckAttributes(),
		},
	}
	return schema.SingleNestedAttribute{
		Optional: true, Computed: true,
		Default:             nestedDefaults(attributes),
		MarkdownDescription: "How the running VM may be moved to another base release or to other components.",
		Attributes:          attributes,
	}
}

// healthCheckAttributes are those of one health check.
func healthCheckAttributes() schema.NestedAttributeObject {
	return schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
		"unit": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "Systemd unit that must be active, such as `nginx.service`.",
			Validators:          []validator.String{isActiveUnit},
		},
		"http": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "URL on the guest's loopback that must answer with a status below 400.",
			Validators:          []validator.String{isLoopbackURL},
		},
		"tcp": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "`host:port` that must accept a connection from within the guest.",
			Validators:          []validator.String{isEndpoint},
		},
		"command": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Command, with its arguments, that must exit with status 0 in the guest. It " +
				"is run without a shell.",
			Validators: []validator.List{listvalidator.SizeAtLeast(1)},
		},
		"timeout": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString(defaultCheckTimeout),
			MarkdownDescription: "How long the check may take to succeed, at most `10m`. Default: `" +
				defaultCheckTimeout + "`.",
			Validators: []validator.String{isDuration},
		},
	}}
}

func (*vmRefresh) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"refresh": refreshAttribute()}
}

func (b *vmRefresh) validate() diag.Diagnostics {
	checks, ok := b.Refresh.Attributes()["health_checks"].(types.Map)
	if !ok {
		return nil
	}
	return validateHealthChecks(path.Root("refresh").AtName("health_checks"), checks)
}

// validateHealthChecks checks what concerns several attributes of a health check, or its command.
func validateHealthChecks(at path.Path, checks types.Map) diag.Diagnostics {
	diags := exactlyOne(at, checks, "unit", "http", "tcp", "command")
	elements := checks.Elements()
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		check, ok := elements[name].(types.Object)
		if !ok || unset(check) {
			continue
		}
		command, ok := check.Attributes()["command"].(types.List)
		if !ok || unset(command) || len(command.Elements()) == 0 {
			continue
		}
		program, ok := command.Elements()[0].(types.String)
		if !ok || program.IsUnknown() {
			continue
		}
		if err := isProgram.check(program.ValueString()); err != nil {
			diags.Append(failedAt(at.AtMapKey(name).AtName("command"), failure{
				do: "use", object: fmt.Sprintf("the command of health check %q", name), err: err,
				next: "Its first element must be " + isProgram.form + ".",
			})...)
		}
	}
	return diags
}

// movedByRollout reports whether rollouts move the VM to other stacks. While that is unknown, they do not.
func (b *vmRefresh) movedByRollout() bool {
	by, ok := b.Refresh.Attributes()["by"].(types.String)
	return ok && by.ValueString() == byRollout
}

// policy reads the attribute refresh. While it is unknown, nothing of the policy is set.
func (b *vmRefresh) policy(ctx context.Context) (refreshModel, diag.Diagnostics) {
	var model refreshModel
	diags := b.Refresh.As(ctx, &model, basetypes.ObjectAsOptions{UnhandledUnknownAsEmpty: true})
	return model, diags
}

func (b *vmRefresh) toSpec(ctx context.Context, spec *vm.Spec) diag.Diagnostics {
	model, diags := b.policy(ctx)
	spec.Refresh = vm.RefreshPolicy{
		Strategy:       model.Strategy.ValueString(),
		MaxImpact:      levelOf(model.MaxImpact.ValueString()),
		Settle:         duration(model.Settle),
		RestartTimeout: duration(model.RestartTimeout),
		KeepFiles:      texts(ctx, model.KeepFiles, &diags),
		Purge:          model.Purge.ValueBool(),
		HealthChecks:   healthChecks(ctx, model.HealthChecks, &diags),
		RequireChecks:  model.RequireChecks.ValueBool(),
		Units:          model.unitPolicy(ctx, &diags),
		ByRollout:      model.By.ValueString() == byRollout,
	}
	return diags
}

// withDefaults is the policy of a configuration without defaults: what is null in the attribute is
// as nestedDefaults has it.
func (b *vmRefresh) withDefaults(ctx context.Context) (vm.RefreshPolicy, diag.Diagnostics) {
	whole, diags := nestedDefaults(refreshAttribute().Attributes).value(ctx)
	if diags.HasError() {
		return vm.RefreshPolicy{}, diags
	}
	values := whole.Attributes()
	for name, value := range b.Refresh.Attributes() {
		if !value.IsNull() {
			values[name] = value
		}
	}
	whole, d := types.ObjectValue(whole.AttributeTypes(ctx), values)
	if diags.Append(d...); diags.HasError() {
		return vm.RefreshPolicy{}, diags
	}
	var spec vm.Spec
	diags.Append((&vmRefresh{whole}).toSpec(ctx, &spec)...)
	return spec.Refresh, diags
}

// unitPolicy is what may be done with units; nil if nothing differs from the default.
func (m *refreshModel) unitPolicy(ctx context.Context, diags *diag.Diagnostics) *agentapi.UnitPolicy {
	policy := &agentapi.UnitPolicy{}
	if wanted := m.Policy.ValueString(); wanted != policyRestart {
		policy.Default = wanted
	}
	var units map[string]unitPolicyModel
	if !m.Units.IsNull() {
		diags.Append(m.Units.ElementsAs(ctx, &units, false)...)
	}
	for name, unit := range units {
		if !unit.Policy.IsNull() {
			if policy.Units == nil {
				policy.Units = map[string]string{}
			}
			policy.Units[name] = unit.Policy.ValueString()
		}
		if paths := texts(ctx, unit.Paths, diags); len(paths) > 0 {
			if policy.Paths == nil {
				policy.Paths = map[string]*agentapi.PathList{}
			}
			policy.Paths[name] = &agentapi.PathList{Paths: paths}
		}
	}
	if policy.GetDefault() == "" && len(policy.GetUnits())+len(policy.GetPaths()) == 0 {
		return nil
	}
	return policy
}

// healthChecks are the checks in the order of their names.
func healthChecks(ctx context.Context, value types.Map, diags *diag.Diagnostics) []*agentapi.HealthCheck {
	if value.IsNull() {
		return nil
	}
	var models map[string]healthCheckModel
	diags.Append(value.ElementsAs(ctx, &models, false)...)
	var checks []*agentapi.HealthCheck
	for _, name := range slices.Sorted(maps.Keys(models)) {
		model := models[name]
		check := &agentapi.HealthCheck{Name: name,
			TimeoutMs: duration(types.StringValue(cmp.Or(model.Timeout.ValueString(),
				defaultCheckTimeout))).Milliseconds()}
		switch {
		case !model.Unit.IsNull():
			check.Kind = &agentapi.HealthCheck_Unit{Unit: model.Unit.ValueString()}
		case !model.HTTP.IsNull():
			check.Kind = &agentapi.HealthCheck_Http{Http: model.HTTP.ValueString()}
		case !model.TCP.IsNull():
			check.Kind = &agentapi.HealthCheck_Tcp{Tcp: model.TCP.ValueString()}
		default:
			check.Kind = &agentapi.HealthCheck_Command{Command: &agentapi.Command{Argv: texts(ctx, model.Command,
				diags)}}
		}
		checks = append(checks, check)
	}
	return checks
}

// fromVM sets the default for a VM that was imported and has no policy in state yet. If the definition of
// a VM of rollouts does not say that it takes part, state says so, and the next apply records it again.
func (b *vmRefresh) fromVM(ctx context.Context, found *vm.VM) (diags diag.Diagnostics) {
	if unset(b.Refresh) {
		b.Refresh, diags = nestedDefaults(refreshAttribute().Attributes).value(ctx)
		return diags
	}
	if b.movedByRollout() && found.Rollout == nil {
		values := b.Refresh.Attributes()
		values["by"] = types.StringValue(byVM)
		b.Refresh, diags = types.ObjectValue(b.Refresh.AttributeTypes(ctx), values)
	}
	return diags
}

func (b *vmRefresh) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmRefresh, vmNames().configurable) {
		change.definition = true
	}
}

// duration reads a text that the schema has checked; 0 if it is null.
func duration(text types.String) time.Duration {
	parsed, err := time.ParseDuration(text.ValueString())
	if err != nil {
		return 0
	}
	return parsed
}

// failingChecks warns about health checks that fail before a refresh, so that they say nothing
// about it. If all checks are required, the refresh is refused.
func failingChecks(name string, failing []string, required bool) (diags diag.Diagnostics) {
	if len(failing) == 0 {
		return nil
	}
	at := path.Root("refresh").AtName("health_checks")
	lines := plain.Guest(guestTexts(failing)...)
	if required {
		return append(diags, failedAt(at, failure{
			do: "plan", object: vmName(name),
			err:  fmt.Errorf("health checks fail now, and refresh.require_checks is set:%s", lines),
			next: "Nothing was changed. Repair what they check, or the checks themselves.",
		})...)
	}
	diags.AddAttributeWarning(at, "Health checks of "+vmName(name)+" fail before the refresh",
		strings.TrimPrefix(lines, "\n")+
			"\nThey do not count in this refresh: it is not rolled back for them. Repair what they check, or the "+
			"checks themselves. With refresh.require_checks = true, the refresh is refused instead.")
	return diags
}

// unmatchedUnits warns about names in refresh.units under which the VM has no unit, so that they say nothing about this
// refresh. It names only what the configuration names, whatever the guest answers.
func unmatchedUnits(spec vm.Spec, impact *agentapi.Impact) (diags diag.Diagnostics) {
	policy, absent := spec.Refresh.Units, impact.GetUnmatchedUnits()
	named := map[string]bool{}
	for name := range policy.GetUnits() {
		named[name] = slices.Contains(absent, name)
	}
	for name := range policy.GetPaths() {
		named[name] = slices.Contains(absent, name)
	}
	maps.DeleteFunc(named, func(_ string, unmatched bool) bool { return !unmatched })
	if len(named) == 0 {
		return nil
	}
	diags.AddAttributeWarning(path.Root("refresh").AtName("units"),
		vmName(spec.Name)+" has no unit of a name in refresh.units",
		"No unit is loaded under this name, none has a file or an init script, and the change brings none:\n"+
			strings.Join(slices.Sorted(maps.Keys(named)), "\n")+
			"\n\nWhat refresh.units says of it has no effect. Correct the name. If a later "+
			"release brings the unit, nothing is to be done.")
	return diags
}

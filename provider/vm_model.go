package provider

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmModel is sharedos_vm in config, plan and state.
type vmModel struct {
	Name              types.String `tfsdk:"name"`
	Base              types.String `tfsdk:"base"`
	Components        types.List   `tfsdk:"components"`
	VCPUs             types.Int64  `tfsdk:"vcpus"`
	Memory            sizeValue    `tfsdk:"memory"`
	Disk              types.Object `tfsdk:"disk"`
	Hostname          types.String `tfsdk:"hostname"`
	SSHAuthorizedKeys types.List   `tfsdk:"ssh_authorized_keys"`
	Interfaces        types.Map    `tfsdk:"interfaces"`
	Running           types.Bool   `tfsdk:"running"`
	Refresh           types.Object `tfsdk:"refresh"`

	UUID        types.String `tfsdk:"uuid"`
	State       types.String `tfsdk:"state"`
	Stack       types.Object `tfsdk:"stack"`
	Agent       types.Object `tfsdk:"agent"`
	Impact      types.Object `tfsdk:"impact"`
	LastRefresh types.Object `tfsdk:"last_refresh"`
	Pending     types.List   `tfsdk:"pending"`
	HeldLayers  types.List   `tfsdk:"held_layers"`

	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

// interfaceModel is one value of the attribute interfaces.
type interfaceModel struct {
	User    types.Object `tfsdk:"user"`
	Bridge  types.String `tfsdk:"bridge"`
	Network types.String `tfsdk:"network"`
}

// refreshModel is the attribute refresh.
type refreshModel struct {
	Strategy       types.String `tfsdk:"strategy"`
	MaxImpact      types.String `tfsdk:"max_impact"`
	Settle         types.String `tfsdk:"settle"`
	RestartTimeout types.String `tfsdk:"restart_timeout"`
	Policy         types.String `tfsdk:"policy"`
	Units          types.Map    `tfsdk:"units"`
	HealthChecks   types.Map    `tfsdk:"health_checks"`
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

var (
	diskTypes      = map[string]attr.Type{"size": sizeType{}}
	userTypes      = map[string]attr.Type{"forwards": types.MapType{ElemType: types.Int64Type}}
	interfaceTypes = map[string]attr.Type{
		"user": types.ObjectType{AttrTypes: userTypes}, "bridge": types.StringType, "network": types.StringType,
	}
	interfaceType = types.ObjectType{AttrTypes: interfaceTypes}
)

// diskSize is the size of the private disk; unknown or null if it is.
func (m *vmModel) diskSize() sizeValue {
	if m.Disk.IsNull() || m.Disk.IsUnknown() {
		return sizeValue{types.StringUnknown()}
	}
	size, ok := m.Disk.Attributes()["size"].(sizeValue)
	if !ok {
		return sizeValue{types.StringNull()}
	}
	return size
}

// policy reads the attribute refresh.
func (m *vmModel) policy(ctx context.Context) (refreshModel, diag.Diagnostics) {
	var model refreshModel
	diags := m.Refresh.As(ctx, &model, basetypes.ObjectAsOptions{})
	return model, diags
}

// spec turns a model whose user attributes are all known into what the VM is to be.
func (m *vmModel) spec(ctx context.Context) (vm.Spec, diag.Diagnostics) {
	var diags diag.Diagnostics
	spec := vm.Spec{
		Name: m.Name.ValueString(), UUID: m.UUID.ValueString(),
		VCPUs: int(m.VCPUs.ValueInt64()), Memory: m.Memory.Bytes(), DiskSize: m.diskSize().Bytes(),
		Hostname: m.Hostname.ValueString(), Running: m.Running.ValueBool(),
	}
	digest := func(text string) tree.Digest {
		id, err := tree.ParseDigest(text)
		if err != nil {
			diags.Append(failed(failure{do: "read a release id of", object: vmName(spec.Name), err: err})...)
		}
		return id
	}
	spec.Base = digest(m.Base.ValueString())
	for _, text := range texts(ctx, m.Components, &diags) {
		spec.Components = append(spec.Components, digest(text))
	}
	spec.AuthorizedKeys = texts(ctx, m.SSHAuthorizedKeys, &diags)
	spec.Interfaces = m.interfaces(ctx, &diags)
	policy, d := m.policy(ctx)
	diags.Append(d...)
	spec.Refresh = vm.RefreshPolicy{
		Strategy:       policy.Strategy.ValueString(),
		MaxImpact:      levelOf(policy.MaxImpact.ValueString()),
		Settle:         duration(policy.Settle.ValueString()),
		RestartTimeout: duration(policy.RestartTimeout.ValueString()),
		HealthChecks:   healthChecks(ctx, policy.HealthChecks, &diags),
		Units:          unitPolicy(ctx, policy, &diags),
	}
	return spec, diags
}

// texts reads a list of texts; nil if it is null.
func texts(ctx context.Context, list types.List, diags *diag.Diagnostics) []string {
	if list.IsNull() {
		return nil
	}
	var found []string
	diags.Append(list.ElementsAs(ctx, &found, false)...)
	return found
}

func (m *vmModel) interfaces(ctx context.Context, diags *diag.Diagnostics) map[string]hypervisor.Interface {
	if m.Interfaces.IsNull() {
		return nil
	}
	var models map[string]interfaceModel
	diags.Append(m.Interfaces.ElementsAs(ctx, &models, false)...)
	found := make(map[string]hypervisor.Interface, len(models))
	for name, model := range models {
		one := hypervisor.Interface{Bridge: model.Bridge.ValueString(), Network: model.Network.ValueString()}
		if !model.User.IsNull() {
			one.User = &hypervisor.UserNetwork{Forwards: map[uint16]uint16{}}
			var user struct {
				Forwards map[string]int64 `tfsdk:"forwards"`
			}
			diags.Append(model.User.As(ctx, &user, basetypes.ObjectAsOptions{})...)
			for host, guest := range user.Forwards {
				port, err := strconv.ParseUint(host, 10, 16)
				if err != nil {
					diags.Append(failed(failure{do: "read the forwards of", object: vmName(m.Name.ValueString()), err: err})...)
					continue
				}
				one.User.Forwards[uint16(port)] = uint16(guest)
			}
		}
		found[name] = one
	}
	return found
}

// unitPolicy is what may be done with units; nil if that is what is done anyway.
func unitPolicy(ctx context.Context, refresh refreshModel, diags *diag.Diagnostics) *agentapi.UnitPolicy {
	policy := &agentapi.UnitPolicy{}
	if wanted := refresh.Policy.ValueString(); wanted != policyRestart {
		policy.Default = wanted
	}
	if !refresh.Units.IsNull() {
		var models map[string]unitPolicyModel
		diags.Append(refresh.Units.ElementsAs(ctx, &models, false)...)
		for unit, model := range models {
			if !model.Policy.IsNull() {
				if policy.Units == nil {
					policy.Units = map[string]string{}
				}
				policy.Units[unit] = model.Policy.ValueString()
			}
			if paths := texts(ctx, model.Paths, diags); len(paths) > 0 {
				if policy.Paths == nil {
					policy.Paths = map[string]*agentapi.PathList{}
				}
				policy.Paths[unit] = &agentapi.PathList{Paths: paths}
			}
		}
	}
	if policy.GetDefault() == "" && len(policy.GetUnits())+len(policy.GetPaths()) == 0 {
		return nil
	}
	return policy
}

func healthChecks(ctx context.Context, checks types.Map, diags *diag.Diagnostics) []*agentapi.HealthCheck {
	if checks.IsNull() {
		return nil
	}
	var models map[string]healthCheckModel
	diags.Append(checks.ElementsAs(ctx, &models, false)...)
	var found []*agentapi.HealthCheck
	for _, name := range slices.Sorted(maps.Keys(models)) {
		model := models[name]
		check := &agentapi.HealthCheck{Name: name, TimeoutMs: duration(model.Timeout.ValueString()).Milliseconds()}
		switch {
		case !model.Unit.IsNull():
			check.Kind = &agentapi.HealthCheck_Unit{Unit: model.Unit.ValueString()}
		case !model.HTTP.IsNull():
			check.Kind = &agentapi.HealthCheck_Http{Http: model.HTTP.ValueString()}
		case !model.TCP.IsNull():
			check.Kind = &agentapi.HealthCheck_Tcp{Tcp: model.TCP.ValueString()}
		default:
			check.Kind = &agentapi.HealthCheck_Command{Command: &agentapi.Command{Argv: texts(ctx, model.Command, diags)}}
		}
		found = append(found, check)
	}
	return found
}

// sameWish reports whether the user asks for the same VM.
func (m *vmModel) sameWish(as vmModel) bool {
	return m.sameStackWish(as) && m.sameHardware(as) && m.diskSize().same(as.diskSize()) && m.Hostname.Equal(as.Hostname) &&
		m.SSHAuthorizedKeys.Equal(as.SSHAuthorizedKeys) && m.Running.Equal(as.Running) &&
		m.Refresh.Equal(as.Refresh) && m.Timeouts.Equal(as.Timeouts)
}

// sameStackWish reports whether the user asks for the same base and components.
func (m *vmModel) sameStackWish(as vmModel) bool {
	return m.Base.Equal(as.Base) && slices.EqualFunc(m.Components.Elements(), as.Components.Elements(), attr.Value.Equal) &&
		!m.Components.IsUnknown()
}

// sameHardware reports whether the user asks for the same processors, memory and interfaces.
func (m *vmModel) sameHardware(as vmModel) bool {
	return m.VCPUs.Equal(as.VCPUs) && m.Memory.same(as.Memory) && m.Interfaces.Equal(as.Interfaces)
}

// diverged reports whether the VM was last heard to run another stack than its definition names, though it is to
// follow at once: a rollback, or an apply that was cut off between guest and definition. A stack that waits for the next
// start is no divergence, unless the plan may climb another rung than the one that it was left at.
func (m *vmModel) diverged(ctx context.Context, plan vmModel) (bool, diag.Diagnostics) {
	policy, diags := plan.policy(ctx)
	if policy.Strategy.ValueString() == vm.NextBoot || m.waits(ctx, &diags) && plan.Refresh.Equal(m.Refresh) || !m.Running.ValueBool() || !m.answering() || m.Stack.IsNull() {
		return false, diags
	}
	var stack stackModel
	diags.Append(m.Stack.As(ctx, &stack, basetypes.ObjectAsOptions{})...)
	return stack.Base != m.Base.ValueString() || !slices.Equal(stack.Components, texts(ctx, m.Components, &diags)), diags
}

// waits reports whether the VM is left with another stack than its definition's until it is next started.
func (m *vmModel) waits(ctx context.Context, diags *diag.Diagnostics) bool {
	base, err := tree.ParseDigest(m.Base.ValueString())
	if err != nil || m.Pending.IsUnknown() {
		return false
	}
	return slices.Contains(texts(ctx, m.Pending, diags), vm.StackPending(base))
}

// answering reports whether the agent answered when it was last asked.
func (m *vmModel) answering() bool {
	if m.Agent.IsNull() || m.Agent.IsUnknown() {
		return false
	}
	answering, ok := m.Agent.Attributes()["answering"].(types.Bool)
	return ok && answering.ValueBool()
}

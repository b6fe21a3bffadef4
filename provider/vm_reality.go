package provider

import (
	"context"
	"slices"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// stackModel is the attribute stack.
type stackModel struct {
	Base       string   `tfsdk:"base"`
	Components []string `tfsdk:"components"`
	Layers     []string `tfsdk:"layers"`
	Kernel     string   `tfsdk:"kernel"`
}

type unitImpactModel struct {
	Unit     string   `tfsdk:"unit"`
	Level    string   `tfsdk:"level"`
	Reason   string   `tfsdk:"reason"`
	Paths    []string `tfsdk:"paths"`
	Packages []string `tfsdk:"packages"`
}

// impactModel is the attribute impact.
type impactModel struct {
	Level    string            `tfsdk:"level"`
	Units    []unitImpactModel `tfsdk:"units"`
	Reasons  []string          `tfsdk:"reasons"`
	Left     []string          `tfsdk:"left"`
	Sessions []string          `tfsdk:"sessions"`
}

type unitRestartModel struct {
	Unit           string       `tfsdk:"unit"`
	Level          string       `tfsdk:"level"`
	InterruptionMS float64      `tfsdk:"interruption_ms"`
	Error          types.String `tfsdk:"error"`
}

// lastRefreshModel is the attribute last_refresh.
type lastRefreshModel struct {
	From       string             `tfsdk:"from"`
	To         string             `tfsdk:"to"`
	Committed  bool               `tfsdk:"committed"`
	Error      types.String       `tfsdk:"error"`
	Level      string             `tfsdk:"level"`
	DeltaBytes int64              `tfsdk:"delta_bytes"`
	EtcCarried int64              `tfsdk:"etc_carried"`
	Restarted  []unitRestartModel `tfsdk:"restarted"`
	Unaffected []string           `tfsdk:"unaffected"`
	Pinned     []string           `tfsdk:"pinned"`
	Conflicts  []string           `tfsdk:"conflicts"`
	Remaining  []string           `tfsdk:"remaining"`
	Left       []string           `tfsdk:"left"`
	Unchecked  []string           `tfsdk:"unchecked"`
	Pending    []string           `tfsdk:"pending"`
	TimingsMS  map[string]float64 `tfsdk:"timings_ms"`
}

// observe makes the model say what the VM is, in the user's words where they mean the same.
func (m *vmModel) observe(ctx context.Context, found *vm.VM) diag.Diagnostics {
	var diags diag.Diagnostics
	m.Name = types.StringValue(found.Spec.Name)
	m.UUID = types.StringValue(found.Spec.UUID)
	m.Base = types.StringValue(found.Spec.Base.String())
	m.Components = textList(ctx, m.Components, digests(found.Spec.Components), &diags)
	m.VCPUs = types.Int64Value(int64(found.Spec.VCPUs))
	if size := newSize(found.Spec.Memory); !m.Memory.same(size) {
		m.Memory = size
	}
	if size := newSize(found.Spec.DiskSize); !m.diskSize().same(size) {
		disk, d := types.ObjectValue(diskTypes, map[string]attr.Value{"size": size})
		diags.Append(d...)
		m.Disk = disk
	}
	m.Hostname = types.StringValue(found.Spec.Hostname)
	m.SSHAuthorizedKeys = textList(ctx, m.SSHAuthorizedKeys, found.Spec.AuthorizedKeys, &diags)
	m.observeInterfaces(ctx, found.Spec.Interfaces, &diags)
	m.Running = types.BoolValue(found.State == hypervisor.Running)
	if m.Refresh.IsNull() || m.Refresh.IsUnknown() {
		m.Refresh = defaultRefresh() // imported: the policy lives in the configuration alone
	}
	diags.Append(m.observeComputed(ctx, found)...)
	return diags
}

// observeComputed makes the computed attributes say what the VM is. What the agent alone can tell stays as it was
// last heard while a running VM's agent is silent.
func (m *vmModel) observeComputed(ctx context.Context, found *vm.VM) diag.Diagnostics {
	var diags diag.Diagnostics
	m.UUID = types.StringValue(found.Spec.UUID)
	m.State = types.StringValue(stateName(found.State))
	silent := found.State == hypervisor.Running && !found.Answered
	if !silent || m.Stack.IsNull() || m.Stack.IsUnknown() {
		m.Stack = object(ctx, stackTypes, stackOf(found.Stack), &diags)
	}
	if !silent || m.Pending.IsNull() || m.Pending.IsUnknown() {
		pending := guestTexts(found.Agent.GetPending())
		if found.Waits != "" {
			pending = append(pending, found.Waits)
		}
		m.Pending = list(ctx, pending, &diags)
	}
	if !silent || m.HeldLayers.IsNull() || m.HeldLayers.IsUnknown() {
		m.HeldLayers = heldLayers(ctx, found.Held, &diags)
	}
	m.observeAgent(found, &diags)
	if m.Impact.IsUnknown() {
		m.Impact = types.ObjectNull(impactTypes)
	}
	if m.LastRefresh.IsUnknown() {
		m.LastRefresh = types.ObjectNull(lastRefreshTypes)
	}
	return diags
}

// heldLayer is one value of the attribute held_layers.
type heldLayer struct {
	Layer string   `tfsdk:"layer"`
	By    []string `tfsdk:"by"`
}

func heldLayers(ctx context.Context, held []vm.Held, diags *diag.Diagnostics) types.List {
	all := make([]heldLayer, 0, len(held))
	for _, one := range held {
		all = append(all, heldLayer{Layer: one.ID.String(), By: guestTexts(one.By)})
	}
	value, d := types.ListValueFrom(ctx, heldLayerType, all)
	diags.Append(d...)
	return value
}

// unpluggable reports whether a layer is attached that nobody uses any more, in a VM whose agent answers.
func (m *vmModel) unpluggable(ctx context.Context) (bool, diag.Diagnostics) {
	var all []heldLayer
	policy, diags := m.policy(ctx)
	if m.HeldLayers.IsNull() || !m.answering() || !m.Running.ValueBool() || policy.Strategy.ValueString() == vm.NextBoot {
		return false, diags
	}
	diags.Append(m.HeldLayers.ElementsAs(ctx, &all, false)...)
	return slices.ContainsFunc(all, func(one heldLayer) bool { return len(one.By) == 0 }), diags
}

func (m *vmModel) observeAgent(found *vm.VM, diags *diag.Diagnostics) {
	before := map[string]attr.Value{}
	if !m.Agent.IsNull() && !m.Agent.IsUnknown() {
		before = m.Agent.Attributes()
	}
	now := map[string]attr.Value{"answering": types.BoolValue(found.Answered)}
	switch {
	case found.Answered:
		now["version"] = types.StringValue(guestText(found.Agent.GetAgentVersion()))
		now["digest"] = optionalText(found.Agent.GetAgentDigest())
		now["refused"] = optionalText(found.Agent.GetAgentRefused())
		now["kernel"] = types.StringValue(guestText(found.Agent.GetKernel()))
	case len(before) > 0:
		for _, name := range []string{"version", "digest", "refused", "kernel"} {
			now[name] = before[name]
		}
	default:
		m.Agent = types.ObjectNull(agentTypes)
		return
	}
	switch known, has := before["ready_seconds"]; {
	case found.ReadySeconds > 0:
		now["ready_seconds"] = types.Float64Value(round(found.ReadySeconds))
	case has:
		now["ready_seconds"] = known
	default:
		now["ready_seconds"] = types.Float64Value(round(found.Agent.GetReadySeconds()))
	}
	agent, d := types.ObjectValue(agentTypes, now)
	diags.Append(d...)
	m.Agent = agent
}

func (m *vmModel) observeInterfaces(ctx context.Context, found map[string]hypervisor.Interface, diags *diag.Diagnostics) {
	if len(found) == 0 && (m.Interfaces.IsNull() || len(m.Interfaces.Elements()) == 0 && !m.Interfaces.IsUnknown()) {
		return
	}
	// An interface with user = {} has no forwards, as has one with user = { forwards = {} }.
	var before map[string]interfaceModel
	if !m.Interfaces.IsNull() && !m.Interfaces.IsUnknown() {
		diags.Append(m.Interfaces.ElementsAs(ctx, &before, false)...)
	}
	models := make(map[string]attr.Value, len(found))
	for name, one := range found {
		values := map[string]attr.Value{
			"user": types.ObjectNull(userTypes), "bridge": types.StringNull(), "network": types.StringNull(),
		}
		switch {
		case one.User != nil:
			forwards := types.MapNull(types.Int64Type)
			ports := make(map[string]int64, len(one.User.Forwards))
			for host, guest := range one.User.Forwards {
				ports[strconv.Itoa(int(host))] = int64(guest)
			}
			wrote := before[name].User
			if known, ok := wrote.Attributes()["forwards"].(types.Map); len(ports) > 0 || ok && !known.IsNull() {
				value, d := types.MapValueFrom(ctx, types.Int64Type, ports)
				diags.Append(d...)
				forwards = value
			}
			user, d := types.ObjectValue(userTypes, map[string]attr.Value{"forwards": forwards})
			diags.Append(d...)
			values["user"] = user
		case one.Bridge != "":
			values["bridge"] = types.StringValue(one.Bridge)
		default:
			values["network"] = types.StringValue(one.Network)
		}
		value, d := types.ObjectValue(interfaceTypes, values)
		diags.Append(d...)
		models[name] = value
	}
	value, d := types.MapValue(interfaceType, models)
	diags.Append(d...)
	m.Interfaces = value
}

// observeRefresh records what a refresh did.
func (m *vmModel) observeRefresh(ctx context.Context, report *agentapi.Report, deltaBytes int64) diag.Diagnostics {
	var diags diag.Diagnostics
	model := lastRefreshModel{
		From: guestText(report.GetFrom().GetBase()), To: guestText(report.GetTo().GetBase()),
		Committed: report.GetCommitted(), Error: optionalText(report.GetError()),
		Level: levelName(report.GetImpact().GetLevel()), DeltaBytes: deltaBytes, EtcCarried: report.GetEtcCarried(),
		Restarted:  []unitRestartModel{},
		Unaffected: guestTexts(report.GetImpact().GetUnaffected()), Pinned: guestTexts(report.GetPinned()),
		Conflicts: guestTexts(report.GetConflicts()), Remaining: guestTexts(report.GetRemaining()),
		Left: guestTexts(report.GetLeft()), Unchecked: guestTexts(report.GetUnchecked()),
		Pending: guestTexts(report.GetPending()), TimingsMS: map[string]float64{},
	}
	for _, restart := range limited(report.GetRestarts()) {
		model.Restarted = append(model.Restarted, unitRestartModel{
			Unit: guestText(restart.GetUnit()), Level: levelName(restart.GetLevel()),
			InterruptionMS: float64(restart.GetInterruptionUs()) / 1000, Error: optionalText(restart.GetError()),
		})
	}
	for _, timing := range limited(report.GetTimings()) {
		model.TimingsMS[guestText(timing.GetStep())] += float64(timing.GetMicros()) / 1000
	}
	m.LastRefresh = object(ctx, lastRefreshTypes, model, &diags)
	return diags
}

// impactOf turns an assessment into the attribute impact.
func impactOf(ctx context.Context, impact *agentapi.Impact) (types.Object, diag.Diagnostics) {
	var diags diag.Diagnostics
	model := impactModel{
		Level: levelName(impact.GetLevel()), Units: []unitImpactModel{}, Reasons: guestTexts(impact.GetReasons()),
		Left: guestTexts(impact.GetLeft()), Sessions: guestTexts(impact.GetSessions()),
	}
	for _, unit := range limited(impact.GetUnits()) {
		model.Units = append(model.Units, unitImpactModel{
			Unit: guestText(unit.GetUnit()), Level: levelName(unit.GetLevel()), Reason: guestText(unit.GetReason()),
			Paths: guestTexts(unit.GetPaths()), Packages: guestTexts(unit.GetPackages()),
		})
	}
	return object(ctx, impactTypes, model, &diags), diags
}

func stackOf(stack release.Stack) stackModel {
	model := stackModel{
		Base: stack.Base.String(), Components: digests(stack.Components),
		Layers: make([]string, len(stack.Layers)), Kernel: guestText(stack.Kernel),
	}
	for i, layer := range stack.Layers {
		model.Layers[i] = layer.ID.String()
	}
	return model
}

func stateName(state hypervisor.State) string {
	switch state {
	case hypervisor.Running:
		return "running"
	case hypervisor.Off:
		return "off"
	case hypervisor.Paused:
		return "paused"
	case hypervisor.Crashed:
		return "crashed"
	default:
		return "unknown"
	}
}

package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmStack is the configured stack of a VM, the stack that it runs, and what is left to do until the two are the same.
type vmStack struct {
	Base       types.String `tfsdk:"base"`
	Components types.List   `tfsdk:"components"`
	Prefer     types.Map    `tfsdk:"prefer"`
	OnDemand   types.List   `tfsdk:"on_demand"`
	// DetachOnDemand is whether an apply detaches what was attached by use, AttachedOnDemand what that is.
	DetachOnDemand   types.Bool `tfsdk:"detach_on_demand"`
	AttachedOnDemand types.List `tfsdk:"attached_on_demand"`

	Stack      types.Object `tfsdk:"stack"`
	Pending    types.List   `tfsdk:"pending"`
	Remaining  types.List   `tfsdk:"remaining"`
	Unreadable types.List   `tfsdk:"unreadable"`
	HeldLayers types.List   `tfsdk:"held_layers"`
	Faults     types.List   `tfsdk:"faults"`
}

var (
	_ vmBlock         = (*vmStack)(nil)
	_ vmBlockWithPlan = (*vmStack)(nil)
)

// stackModel is the attribute stack.
type stackModel struct {
	ID types.String `tfsdk:"id"`
	// Next is the stack in the VM's definition, if that is another one.
	Next             types.String `tfsdk:"next"`
	AwaitsPowerCycle types.Bool   `tfsdk:"awaits_power_cycle"`

	Base       string   `tfsdk:"base"`
	Components []string `tfsdk:"components"`
	Layers     []string `tfsdk:"layers"`
	Kernel     string   `tfsdk:"kernel"`
}

// heldLayer is one value of the attribute held_layers.
type heldLayer struct {
	Layer string   `tfsdk:"layer"`
	By    []string `tfsdk:"by"`
}

func stackAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "The stack that the VM runs, as its agent reports it. While the agent does not answer, " +
			"this is the last report, or the configured stack if there was none.",
		Attributes: map[string]schema.Attribute{
			"id": computedText("Id of the stack: the SHA-256 of its signed manifest, of the form `sha256:<64 hex>`; " +
				"null while the VM runs a stack that an earlier version of the provider recorded without an id."),
			"next": computedText("Id of the stack in the VM's definition if the VM runs another one; otherwise null."),
			"awaits_power_cycle": schema.BoolAttribute{
				Computed: true,
				MarkdownDescription: "Whether `next` takes effect at the next power-off and start, because the " +
					"strategy of the last apply did not allow more. If it is false and `next` is set, the next apply " +
					"refreshes the VM to `next`.",
			},
			"base":       computedText("Id of the base release."),
			"components": computedTexts("Ids of the component releases."),
			"layers":     computedTexts("Ids of the layers, from bottom to top."),
			"kernel": computedText("Kernel release of the base. The kernel that the VM runs until the next " +
				"power-off and start is in `agent.kernel`."),
		},
	}
}

func heldLayersAttribute() schema.ListNestedAttribute {
	return schema.ListNestedAttribute{
		Computed: true,
		MarkdownDescription: "Layers that are no longer part of the stack but stay attached, because the guest still " +
			"uses them. When a layer is no longer in use, the next plan shows a change of this attribute, and its " +
			"apply detaches the layer. This interrupts nothing.",
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"layer": computedText("Id of the layer."),
			"by": computedTexts("What uses the layer: units, with their processes and the files that they use, or " +
				"the root file system until the next boot. Empty if nothing uses it any more."),
		}},
	}
}

func faultsAttribute() schema.ListNestedAttribute {
	return schema.ListNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the VM needs and does not have: its private disk, a layer that is not in the " +
			"storage pool, in its definition or attached to the running VM, its kernel. Every plan warns of them. " +
			"What `mended` says is mended by the next apply is an update in the plan. Reads compare names and sizes; " +
			"to check the content of what is in the pool, use the data source `sharedos_verify`.",
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"object":  computedText("What is missing or damaged, such as `private disk` or `layer sha256:…`."),
			"problem": computedText("What is wrong with it, and what to do."),
			"mended":  schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether the next apply mends it."},
		}},
	}
}

// faultModel is one value of the attribute faults.
type faultModel struct {
	Object  string `tfsdk:"object"`
	Problem string `tfsdk:"problem"`
	Mended  bool   `tfsdk:"mended"`
}

var faultType = types.ObjectType{AttrTypes: typesOf(faultsAttribute().NestedObject.Attributes)}

// mendable reports whether the next apply mends a fault.
func (b *vmStack) mendable(ctx context.Context) (bool, diag.Diagnostics) {
	if unset(b.Faults) {
		return false, nil
	}
	var faults []faultModel
	diags := b.Faults.ElementsAs(ctx, &faults, false)
	return slices.ContainsFunc(faults, func(one faultModel) bool { return one.Mended }), diags
}

var (
	stackTypes    = typesOf(stackAttribute().Attributes)
	heldLayerType = types.ObjectType{AttrTypes: typesOf(heldLayersAttribute().NestedObject.Attributes)}
)

func (*vmStack) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"base": schema.StringAttribute{
			Required:            true,
			MarkdownDescription: "Id of the base release to run, such as `sharedos_base.debian.release`.",
			Validators:          []validator.String{isRelease},
		},
		"components": schema.ListAttribute{
			Optional: true, Computed: true, ElementType: types.StringType,
			MarkdownDescription: "Ids of the component releases to run on top of the base, such as `sharedos_component.nginx.release`, in " +
				"the order in which they are attached. A running VM gets and loses components by a refresh.",
			Validators: []validator.List{listvalidator.UniqueValues(), listvalidator.ValueStringsAre(isRelease)},
		},
		"on_demand": schema.ListAttribute{
			Optional: true, Computed: true, ElementType: types.StringType,
			MarkdownDescription: "Ids of component releases that the VM attaches by itself when they are used: when " +
				"one of their units is started, by hand or by a connection, a timer, a path or a D-Bus name, when " +
				"one of their commands is called, or when root runs `sharedos component add NAME` in the guest. " +
				"Until then they take no memory. At most " +
				strconv.Itoa(release.MaxOnDemand) + ", since each combination " +
				"is a stack of its own.",
			Validators: []validator.List{
				listvalidator.UniqueValues(), listvalidator.SizeAtMost(release.MaxOnDemand),
				listvalidator.ValueStringsAre(isRelease),
			},
		},
		"detach_on_demand": schema.BoolAttribute{
			Optional: true, Computed: true, Default: booldefault.StaticBool(false),
			MarkdownDescription: "Whether an apply detaches the components in `attached_on_demand`: in the running VM, and otherwise when it next starts. " +
				"Default: `false`, so what was attached by use stays attached, in the release that `on_demand` has.",
		},
		"attached_on_demand": computedTexts(
			"Names of the components of `on_demand` that are attached, because they were used."),
		"prefer": schema.MapAttribute{
			Optional: true, Computed: true, ElementType: types.StringType,
			MarkdownDescription: "Which component a path is of, where several have different content: names of " +
				"components by absolute path, such as `{ \"/etc/nginx/nginx.conf\" = \"site\" }`. Without it such a " +
				"path is an error in the plan. A directory stands for everything in it, and a longer path decides " +
				"before a shorter one. It settles only what would be an error: files that one component alone has " +
				"stay, and what packages of several components write together is as apt makes it. A path that " +
				"settles nothing is a warning in the plan.",
			Validators: []validator.Map{mapvalidator.SizeBetween(1, release.MaxPreferences),
				mapvalidator.KeysAre(isPreferencePath), mapvalidator.ValueStringsAre(isName)},
		},
		"stack": stackAttribute(),
		"pending": computedTexts("Changes that take effect when the VM is next powered off and started, such as " +
			"`kernel 6.12.88 → 6.12.101 at the next power-off and start`: a new kernel under a strategy below " +
			"`kexec`, or a stack that needs more than the strategy allows. A reboot from within the guest keeps the " +
			"kernel that the VM was started with. Also code of units that a refresh could not renew, for as long as " +
			"they run it, and changed files that are loaded once, at boot, such as those in `/etc/sysctl.d`."),
		"remaining": computedTexts("Processes that run old code now, such as `dbus.service 412 " +
			"/usr/lib/x86_64-linux-gnu/libexpat.so.1`, whichever refresh brought the new code. What they use is compared " +
			"with what is mounted. Restart them, or the VM."),
		"unreadable": computedTexts(
			"Layers of the running stack that the VM cannot read, with the reason: a disk that is " +
				"gone, or whose content is not what was signed. Every plan warns of them, and a refresh is refused."),
		"held_layers": heldLayersAttribute(),
		"faults":      faultsAttribute(),
	}
}

func (b *vmStack) toSpec(ctx context.Context, spec *vm.Spec) (diags diag.Diagnostics) {
	digest := func(at path.Path, text string) tree.Digest {
		id, err := tree.ParseDigest(text)
		if err != nil {
			diags.Append(failedAt(at, failure{do: "read a release id of", object: vmName(spec.Name), err: err})...)
		}
		return id
	}
	spec.Base = digest(path.Root("base"), b.Base.ValueString())
	for i, text := range texts(ctx, b.Components, &diags) {
		spec.Components = append(spec.Components, digest(path.Root("components").AtListIndex(i), text))
	}
	for i, text := range texts(ctx, b.OnDemand, &diags) {
		spec.OnDemand = append(spec.OnDemand, digest(path.Root("on_demand").AtListIndex(i), text))
	}
	if !b.AttachedOnDemand.IsUnknown() {
		spec.Attached = texts(ctx, b.AttachedOnDemand, &diags)
	}
	spec.DetachUsed = b.DetachOnDemand.ValueBool()
	var prefer map[string]string
	if !b.Prefer.IsNull() {
		diags.Append(b.Prefer.ElementsAs(ctx, &prefer, false)...)
	}
	for _, at := range slices.Sorted(maps.Keys(prefer)) {
		spec.Prefer = append(spec.Prefer, release.Preference{Path: at, Component: prefer[at]})
	}
	return diags
}

// preferMap converts preferences to the attribute prefer. If there are none, a map that was null stays null.
func preferMap(ctx context.Context, before types.Map, now []release.Preference, diags *diag.Diagnostics) types.Map {
	if len(now) == 0 && unset(before) {
		return types.MapNull(types.StringType)
	}
	texts := make(map[string]string, len(now))
	for _, one := range now {
		texts[one.Path] = one.Component
	}
	value, d := types.MapValueFrom(ctx, types.StringType, texts)
	diags.Append(d...)
	return value
}

// fromVM keeps the values that the agent reported last while the VM runs and its agent does not answer.
func (b *vmStack) fromVM(ctx context.Context, found *vm.VM) (diags diag.Diagnostics) {
	b.Base = types.StringValue(found.Spec.Base.String())
	b.Components = textList(ctx, b.Components, digests(found.Spec.Components), &diags)
	b.OnDemand = textList(ctx, b.OnDemand, digests(found.Spec.OnDemand), &diags)
	if found.Answered || unset(b.AttachedOnDemand) { // a definition does not have what the VM has attached by itself
		b.AttachedOnDemand = list(ctx, slices.Concat([]string{}, found.Spec.Attached), &diags)
	}
	if unset(b.DetachOnDemand) { // after an import
		b.DetachOnDemand = types.BoolValue(false)
	}
	b.Prefer = preferMap(ctx, b.Prefer, found.Spec.Prefer, &diags)
	if found.Rollout != nil {
		b.notNull()
	}
	faults := make([]faultModel, len(found.Faults))
	for i, one := range found.Faults {
		faults[i] = faultModel{Object: plain.Line(one.Object), Problem: plain.Line(one.Problem), Mended: one.Mended}
	}
	var d diag.Diagnostics
	b.Faults, d = types.ListValueFrom(ctx, faultType, faults)
	diags.Append(d...)
	reported := !silent(found)
	if reported || unset(b.Stack) {
		b.Stack = object(ctx, stackTypes, stackOf(found), &diags)
	}
	if reported || unset(b.Pending) {
		pending := guestTexts(found.Agent.GetPending())
		if found.AwaitsPowerCycle {
			pending = append(pending,
				fmt.Sprintf("base %s at the next power-off and start", releasesOf(found.Configured)))
		}
		b.Pending = list(ctx, pending, &diags)
	}
	if reported || unset(b.Remaining) {
		b.Remaining = list(ctx, guestTexts(found.Agent.GetRemaining()), &diags)
	}
	if reported || unset(b.Unreadable) {
		b.Unreadable = list(ctx, guestTexts(found.Agent.GetUnreadable()), &diags)
	}
	if reported || unset(b.HeldLayers) {
		held := make([]heldLayer, len(found.Surplus))
		for i, one := range found.Surplus {
			held[i] = heldLayer{Layer: one.ID.String(), By: guestTexts(one.InUseBy)}
		}
		var d diag.Diagnostics
		b.HeldLayers, d = types.ListValueFrom(ctx, heldLayerType, held)
		diags.Append(d...)
	}
	return diags
}

// compare treats an empty list of components like a missing one.
func (b *vmStack) compare(state *vmModel, change *vmChange) {
	same := func(plan, state types.List) bool {
		return !plan.IsUnknown() && slices.EqualFunc(plan.Elements(), state.Elements(), attr.Value.Equal)
	}
	detaches := b.DetachOnDemand.ValueBool() && len(state.AttachedOnDemand.Elements()) > 0 &&
		!(state.DetachOnDemand.ValueBool() && state.waits())
	if !b.Base.Equal(state.Base) || !same(b.Components, state.Components) || !same(b.OnDemand, state.OnDemand) ||
		!b.Prefer.Equal(state.Prefer) &&
			(b.Prefer.IsUnknown() || len(b.Prefer.Elements())+len(state.Prefer.Elements()) > 0) || detaches {
		change.stack = true
	}
	change.definition = change.definition || !b.DetachOnDemand.Equal(state.DetachOnDemand)
}

// completePlan plans the stack. Attributes that are not configured are null. If a rollout moves the VM, they stay as in
// state, even if another value is configured: Terraform allows a plan to keep the value in state, unless that is null.
func (b *vmStack) completePlan(config, state *vmModel) {
	if config.Components.IsNull() {
		b.Components = config.Components
	}
	if config.OnDemand.IsNull() {
		b.OnDemand = config.OnDemand
	}
	if config.Prefer.IsNull() {
		b.Prefer = config.Prefer
	}
	if !config.movedByRollout() {
		return
	}
	if state != nil {
		b.Base = state.Base
		if !state.Components.IsNull() {
			b.Components = state.Components
		}
		if !state.OnDemand.IsNull() {
			b.OnDemand = state.OnDemand
		}
		if !state.Prefer.IsNull() {
			b.Prefer = state.Prefer
		}
	}
	b.notNull()
}

// notNull makes what is null empty, so that later plans can keep it.
func (b *vmStack) notNull() {
	none := types.ListValueMust(types.StringType, []attr.Value{})
	if b.Components.IsNull() {
		b.Components = none
	}
	if b.OnDemand.IsNull() {
		b.OnDemand = none
	}
	if b.Prefer.IsNull() {
		b.Prefer = types.MapValueMust(types.StringType, map[string]attr.Value{})
	}
}

// keepable fails if a VM that rollouts move from now on would need another stack in its plan,
// because an attribute of it is null in state.
func (b *vmStack) keepable(name string, state *vmModel) diag.Diagnostics {
	for attribute, differs := range map[string]bool{
		"components": state.Components.IsNull() && len(b.Components.Elements()) > 0,
		"on_demand":  state.OnDemand.IsNull() && len(b.OnDemand.Elements()) > 0,
		"prefer":     state.Prefer.IsNull() && len(b.Prefer.Elements()) > 0,
	} {
		if differs {
			return failedAt(path.Root(attribute), failure{do: "plan", object: vmName(name),
				err:  fmt.Errorf("rollouts are to move it from now on, and %s is new in the same change", attribute),
				next: "Apply refresh.by = \"rollout\" first, without this. A rollout brings it then."})
		}
	}
	return nil
}

// waits reports whether what the VM has attached by use is detached only when it is next powered
// off and started, as an earlier apply has decided.
func (b *vmStack) waits() bool {
	awaits, ok := b.Stack.Attributes()["awaits_power_cycle"].(types.Bool)
	return ok && awaits.ValueBool()
}

// detachedOff returns what a VM has attached by use after an apply: nothing, if the apply has defined
// a VM that is off to start without it. Nobody can be asked then, and fromVM keeps what the VM had.
func (b *vmStack) detachedOff(spec vm.Spec) types.List {
	if spec.DetachUsed && !spec.Running && len(b.AttachedOnDemand.Elements()) > 0 {
		return types.ListValueMust(types.StringType, nil)
	}
	return b.AttachedOnDemand
}

// planAttached plans what is attached by use, and the stack with it: neither is known as long as the VM can attach
// components meanwhile. The state of a new VM is nil.
func (b *vmStack) planAttached(state *vmModel) {
	if len(b.OnDemand.Elements()) == 0 && (state == nil || len(state.OnDemand.Elements()) == 0) {
		return
	}
	b.AttachedOnDemand, b.Stack = types.ListUnknown(types.StringType), types.ObjectUnknown(stackTypes)
}

func stackOf(found *vm.VM) stackModel {
	model := describeStack(found.Stack)
	model.AwaitsPowerCycle = types.BoolValue(found.AwaitsPowerCycle)
	if !found.Stack.Same(found.Configured) {
		model.Next = types.StringValue(nextOf(found.Configured))
	}
	return model
}

// describeStack describes a stack that a VM runs, and that its definition has as well.
func describeStack(stack release.Stack) stackModel {
	model := stackModel{
		ID: types.StringNull(), Next: types.StringNull(), AwaitsPowerCycle: types.BoolValue(false),
		Base: stack.Base.String(), Components: digests(stack.Components),
		Layers: make([]string, len(stack.Layers)), Kernel: guestText(stack.Kernel),
	}
	for i, layer := range stack.Layers {
		model.Layers[i] = layer.ID.String()
	}
	if !stack.ID.IsZero() {
		model.ID = types.StringValue(stack.ID.String())
	}
	return model
}

// nextOf names a stack as the value of stack.next.
func nextOf(stack release.Stack) string { return cmp.Or(stack.ID, stack.Base).String() }

// willRun plans the stack of a VM that boots target; it is unknown if target is nil.
func (b *vmStack) willRun(ctx context.Context, target *release.Stack) (diags diag.Diagnostics) {
	if target != nil {
		b.Stack = object(ctx, stackTypes, describeStack(*target), &diags)
	}
	return diags
}

// endsWith plans the stack of a VM that exists, at the end of an apply after which its definition has target. It stays
// unknown if the plan does not know how the apply ends.
func (b *vmStack) endsWith(ctx context.Context, state *vmModel, target *release.Stack, end end,
	change vmChange) diag.Diagnostics {
	if target == nil || !b.Stack.IsUnknown() {
		return nil
	}
	if end == endMoved {
		return b.willRun(ctx, target)
	}
	running, diags := state.running(ctx)
	if end != endLeft || running == nil || running.ID.IsNull() || !change.stack {
		return diags
	}
	running.Next, running.AwaitsPowerCycle = types.StringNull(), types.BoolValue(false)
	if running.ID.ValueString() != target.ID.String() {
		running.Next, running.AwaitsPowerCycle = types.StringValue(nextOf(*target)), types.BoolValue(true)
	}
	b.Stack = object(ctx, stackTypes, running, &diags)
	return diags
}

// errOtherStack means that a VM does not run the stack that the plan said it would.
var errOtherStack = errors.New("the VM does not run the stack that was planned")

// stackMatches fails if a VM runs another stack than planned, although no step failed. An agent that does not answer
// leaves that open: the next plan finds out.
func (b *vmStack) stackMatches(ctx context.Context, found *vm.VM) error {
	if unset(b.Stack) || silent(found) {
		return nil
	}
	planned, diags := b.running(ctx)
	if diags.HasError() {
		return diagError{diags[0]}
	}
	now := stackOf(found)
	if planned.ID.Equal(now.ID) && planned.Next.Equal(now.Next) {
		return nil
	}
	return fmt.Errorf("%w: it runs %s, and the plan said %s", errOtherStack, now.text(), planned.text())
}

// text names a stack, and the one that takes effect later if there is one.
func (m stackModel) text() string {
	text := "stack " + m.ID.ValueString()
	if !m.Next.IsNull() {
		text += " until it is next powered off and started, and then " + m.Next.ValueString()
	}
	return text
}

// releasesOf names what a stack is made of: the release of the base, and those of components if there are any.
func releasesOf(stack release.Stack) string {
	text := stack.Base.String()
	if len(stack.Components) > 0 {
		text += " with components " + strings.Join(digests(stack.Components), ", ")
	}
	return text
}

// running returns the stack that the VM runs; nil if it is not known.
func (b *vmStack) running(ctx context.Context) (*stackModel, diag.Diagnostics) {
	if unset(b.Stack) {
		return nil, nil
	}
	var model stackModel
	diags := b.Stack.As(ctx, &model, basetypes.ObjectAsOptions{})
	return &model, diags
}

// diverged reports whether the VM runs another stack than its definition names, according to the last report of its
// agent: after a rollback, or after an apply that was interrupted between guest and definition.
func (b *vmStack) diverged(ctx context.Context) (bool, diag.Diagnostics) {
	running, diags := b.running(ctx)
	return running != nil && !running.Next.IsNull(), diags
}

// awaitsPowerCycle reports whether the stack in the definition takes effect only when the VM is next powered off and
// started.
func (b *vmStack) awaitsPowerCycle(ctx context.Context) (bool, diag.Diagnostics) {
	running, diags := b.running(ctx)
	return running != nil && running.AwaitsPowerCycle.ValueBool(), diags
}

// unpluggable reports whether a layer is still attached that nothing uses any more, according to the last report.
func (b *vmStack) unpluggable(ctx context.Context) (bool, diag.Diagnostics) {
	if unset(b.HeldLayers) {
		return false, nil
	}
	var held []heldLayer
	diags := b.HeldLayers.ElementsAs(ctx, &held, false)
	return slices.ContainsFunc(held, func(one heldLayer) bool { return len(one.By) == 0 }), diags
}

// newLayerBytes counts the bytes of those layers of spec that the VM in state does not run.
func (b *vmStack) newLayerBytes(ctx context.Context, publisher publish.Interface, spec vm.Spec) (int64, error) {
	running, diags := b.running(ctx)
	if diags.HasError() {
		return 0, diagError{diags[0]}
	}
	if running == nil {
		running = &stackModel{}
	}
	var bytes int64
	for _, id := range append([]tree.Digest{spec.Base}, spec.Components...) {
		manifest, err := publisher.Get(ctx, id)
		if err != nil {
			return 0, err
		}
		for _, layer := range manifest.Layers {
			if !slices.Contains(running.Layers, layer.ID.String()) {
				bytes += layer.Size
			}
		}
	}
	return bytes, nil
}

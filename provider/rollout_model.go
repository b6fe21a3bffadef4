package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/listdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// rolloutModel is sharedos_rollout in config, plan and state.
type rolloutModel struct {
	Base           types.String `tfsdk:"base"`
	Components     types.List   `tfsdk:"components"`
	OnDemand       types.List   `tfsdk:"on_demand"`
	Prefer         types.Map    `tfsdk:"prefer"`
	VMs            types.List   `tfsdk:"vms"`
	Waves          types.List   `tfsdk:"waves"`
	MaxUnavailable types.Int64  `tfsdk:"max_unavailable"`
	MaxFailures    types.Int64  `tfsdk:"max_failures"`
	Soak           types.String `tfsdk:"soak"`
	OnFailure      types.String `tfsdk:"on_failure"`

	Impact   types.List `tfsdk:"impact"`
	Progress types.List `tfsdk:"progress"`
	Results  types.Map  `tfsdk:"results"`
	Complete types.Bool `tfsdk:"complete"`

	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

// waveImpactModel is one wave of the attribute impact.
type waveImpactModel struct {
	VMs map[string]vmForetoldModel `tfsdk:"vms" json:"vms"`
}

// vmForetoldModel is what a VM is foretold to have interrupted. It is a part of what a plan notes.
type vmForetoldModel struct {
	Level   *string           `tfsdk:"level" json:"level"`
	Units   map[string]string `tfsdk:"units" json:"units"`
	Reasons []string          `tfsdk:"reasons" json:"reasons"`
	Note    *string           `tfsdk:"note" json:"note"`
}

// waveProgressModel is one wave of the attribute progress.
type waveProgressModel struct {
	VMs     int64  `tfsdk:"vms"`
	Updated int64  `tfsdk:"updated"`
	Failed  int64  `tfsdk:"failed"`
	State   string `tfsdk:"state"`
}

// vmResultModel is one value of the attribute results, whose key is the name of the VM.
type vmResultModel struct {
	Wave           int64             `tfsdk:"wave"`
	State          string            `tfsdk:"state"`
	Why            types.String      `tfsdk:"why"`
	FailedChecks   map[string]string `tfsdk:"failed_checks"`
	Seconds        float64           `tfsdk:"seconds"`
	InterruptionMS float64           `tfsdk:"interruption_ms"`
}

// What a rollout does when it stops.
const (
	onFailureHalt        = "halt"
	onFailureTakeBack    = "take_back"
	onFailureTakeBackAll = "take_back_all"
)

var onFailures = map[string]rollout.OnFailure{
	onFailureHalt: rollout.Halt, onFailureTakeBack: rollout.TakeBack, onFailureTakeBackAll: rollout.TakeBackAll,
}

const (
	// rolloutTimeout is the default limit of a whole rollout.
	rolloutTimeout = 24 * time.Hour
	// maxSoak bounds how long a wave has to stay healthy.
	maxSoak = 24 * time.Hour
)

// isSoak accepts how long a wave has to stay healthy.
var isSoak = textRule{
	form:  `a duration from 0s to 24h, such as "5m" or "1h30m"`,
	check: func(text string) error { return durationWithin(text, 0, maxSoak) },
}

// isWave accepts the size of a wave.
var isWave = textRule{
	form:  `a number of VMs, such as "1", or a share of them, such as "10%"`,
	check: func(text string) error { return rollout.CheckWaves([]string{text}) },
}

func rolloutAttributes(ctx context.Context) map[string]schema.Attribute {
	texts := func(all ...string) types.List {
		values := make([]attr.Value, len(all))
		for i, text := range all {
			values[i] = types.StringValue(text)
		}
		return types.ListValueMust(types.StringType, values)
	}
	return map[string]schema.Attribute{
		"base": schema.StringAttribute{
			Required:            true,
			MarkdownDescription: "Id of the base release that the VMs get, such as `sharedos_base.debian.release`.",
			Validators:          []validator.String{isRelease},
		},
		"components": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Ids of the component releases that the VMs get, as in `sharedos_vm`. Without them, the VMs lose those that they have.",
			Validators: []validator.List{listvalidator.UniqueValues(),
				listvalidator.ValueStringsAre(isRelease)},
		},
		"on_demand": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Ids of component releases that the VMs attach by themselves, as in `sharedos_vm`.",
			Validators: []validator.List{
				listvalidator.UniqueValues(), listvalidator.SizeAtMost(release.MaxOnDemand),
				listvalidator.ValueStringsAre(isRelease),
			},
		},
		"prefer": schema.MapAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Which component a path is of, where several have different content, as in `sharedos_vm`.",
			Validators: []validator.Map{mapvalidator.SizeBetween(1, release.MaxPreferences),
				mapvalidator.KeysAre(isPreferencePath), mapvalidator.ValueStringsAre(isName)},
		},
		"vms": schema.ListAttribute{
			Required: true, ElementType: types.StringType,
			MarkdownDescription: "Names of the VMs, in the order in which they get the release: the first ones are " +
				"the canaries. Each of them says `refresh = { by = \"rollout\" }`. Refer to them, as in `[for vm in " +
				"sharedos_vm.web : vm.name]`, so that new VMs are created first.",
			Validators: []validator.List{listvalidator.UniqueValues(), listvalidator.ValueStringsAre(isName)},
		},
		"waves": schema.ListAttribute{
			Optional: true, Computed: true, ElementType: types.StringType,
			Default: listdefault.StaticValue(texts("1", "10%", "50%", "100%")),
			MarkdownDescription: "How many VMs have the release once each wave is done: a number, or a share of " +
				"them, which is rounded up. A size counts the waves before it, too. VMs that no size reaches are the " +
				"last wave. Default: `[\"1\", \"10%\", \"50%\", \"100%\"]`.",
			Validators: []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(isWave)},
		},
		"max_unavailable": schema.Int64Attribute{
			Optional: true, Computed: true, Default: int64default.StaticInt64(1),
			MarkdownDescription: "How many VMs may be away at a time: those that are being moved, and those that do not answer. However large it is, " +
				fmt.Sprintf("at most %d VMs are moved at a time by all rollouts of one provider. Default: `1`.",
					movedAtOnce),
			Validators: []validator.Int64{int64validator.AtLeast(1)},
		},
		"max_failures": schema.Int64Attribute{
			Optional: true, Computed: true, Default: int64default.StaticInt64(0),
			MarkdownDescription: "How many VMs of a wave may fail without stopping the rollout. A VM that fails gets back what it ran before. Default: `0`.",
			Validators:          []validator.Int64{int64validator.AtLeast(0)},
		},
		"soak": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString("1m"),
			MarkdownDescription: "How long a wave has to stay healthy after its last VM was moved, at most `24h`: the health checks of each VM are made again " +
				"and again. A VM whose checks fail twice in a row has failed. It comes after the `refresh.settle` of each VM. Default: `1m`.",
			Validators: []validator.String{isSoak},
		},
		"on_failure": schema.StringAttribute{
			Optional: true, Computed: true, Default: stringdefault.StaticString(onFailureHalt),
			MarkdownDescription: "What is done with the VMs that have the new release when the rollout stops, " +
				"because more VMs of a wave failed than `max_failures`. `halt`: they keep it. `take_back`: those of " +
				"the wave get back what they ran before. `take_back_all`: those of all waves do. VMs that failed get " +
				"it back in any case, unless they do not answer. Default: `halt`.",
			Validators: []validator.String{oneOf(onFailureHalt, onFailureTakeBack, onFailureTakeBackAll)},
		},
		"impact": schema.ListNestedAttribute{
			Computed:            true,
			MarkdownDescription: "The waves of the last planned rollout, and what it interrupts in each VM, as its agent assessed it during the plan.",
			NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
				"vms": schema.MapNestedAttribute{
					Computed:            true,
					MarkdownDescription: "The VMs of the wave, by their names.",
					NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
						"level": computedText(
							"Largest impact on the VM: `none`, `reload`, `restart`, `soft_reboot`, `kexec` or `reboot`; null if it is not known."),
						"units": schema.MapAttribute{Computed: true, ElementType: types.StringType,
							MarkdownDescription: "Impact on each affected unit, by the names of the units."},
						"reasons": computedTexts("Why restarting units is not enough."),
						"note": computedText(
							"What else is to be known, such as that the VM does not answer; null if there is nothing."),
					}},
				},
			}},
		},
		"progress": schema.ListNestedAttribute{
			Computed:            true,
			MarkdownDescription: "How far the last rollout came, by its waves.",
			NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
				"vms":     computedNumber("How many VMs the wave has."),
				"updated": computedNumber("How many of them have the release."),
				"failed":  computedNumber("How many of them failed."),
				"state":   computedText("`waiting`, `incomplete` or `done`."),
			}},
		},
		"results": schema.MapNestedAttribute{
			Computed:            true,
			MarkdownDescription: "What became of each VM in the last rollout, by their names.",
			NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
				"wave": computedNumber("Wave of the VM, from 1."),
				"state": computedText(
					"`updated`: the rollout gave it the release. `current`: it had it. `failed`: it was to get it, and has what it ran " +
						"before. `taken_back`: it had it, and others failed. `skipped`: it cannot get it while it runs. `silent`: its agent does not " +
						"answer. `missing`: there is no such VM. `waiting`: its turn did not come."),
				"why": computedText("Why; null if there is nothing to explain."),
				"failed_checks": schema.MapAttribute{Computed: true, ElementType: types.StringType,
					MarkdownDescription: "Health checks that failed after the VM was moved, with what was logged last."},
				"seconds": schema.Float64Attribute{Computed: true,
					MarkdownDescription: "How long it took to move the VM, in seconds; 0 if it was not moved."},
				"interruption_ms": schema.Float64Attribute{Computed: true,
					MarkdownDescription: "How long a service of the VM was away at most, in milliseconds. " +
						"If the whole VM was started again, this is how long the move took."},
			}},
		},
		"complete": computedBool("Whether each VM has the release."),
		"timeouts": rolloutTimeouts(ctx),
	}
}

// rolloutTimeouts is the attribute timeouts. There is nothing that takes long in a deletion.
func rolloutTimeouts(ctx context.Context) schema.Attribute {
	return timeouts.Attributes(ctx, timeouts.Opts{
		Create: true, CreateDescription: "How long the first rollout may take as a whole. Default: `24h`.",
		Update: true, UpdateDescription: "How long each later one may take as a whole. Default: `24h`.",
	})
}

var (
	rolloutTypes      = sharedRolloutTypes()
	waveImpactType    = rolloutTypes["impact"].(types.ListType).ElemType   //nolint:forcetypeassert // the schema says so
	waveProgressType  = rolloutTypes["progress"].(types.ListType).ElemType //nolint:forcetypeassert // the schema says so
	vmResultType      = rolloutTypes["results"].(types.MapType).ElemType   //nolint:forcetypeassert // the schema says so
	rolloutAttributed = namesOf(rolloutAttributes(context.Background()))
)

func sharedRolloutTypes() map[string]attr.Type {
	return typesOf(rolloutAttributes(context.Background()))
}

// target is what makes the stack that the VMs get. All of it must be known.
func (m *rolloutModel) target(ctx context.Context) (vm.Target, diag.Diagnostics) {
	stack := vmStack{Base: m.Base, Components: m.Components, OnDemand: m.OnDemand, Prefer: m.Prefer,
		DetachOnDemand: types.BoolValue(false), AttachedOnDemand: types.ListNull(types.StringType)}
	var spec vm.Spec
	diags := stack.toSpec(ctx, &spec)
	return spec.Target(), diags
}

// waves divides the VMs.
func (m *rolloutModel) waves(ctx context.Context) ([][]string, diag.Diagnostics) {
	var diags diag.Diagnostics
	waves, err := rollout.Split(texts(ctx, m.VMs, &diags), texts(ctx, m.Waves, &diags))
	if err != nil && !diags.HasError() {
		diags.Append(failedAt(path.Root("waves"), failure{do: "use", object: "the waves of the rollout", err: err,
			next: `Give sizes that grow, such as ["1", "10%", "50%", "100%"].`})...)
	}
	return waves, diags
}

// known reports whether everything is known that a rollout needs.
func (m *rolloutModel) known(ctx context.Context) (bool, error) {
	return fullyKnown(ctx, m, map[string]bool{
		"base": true, "components": true, "on_demand": true, "prefer": true, "vms": true, "waves": true,
	})
}

// sameConfiguration reports whether two models are configured alike. Timeouts do not count.
func (m *rolloutModel) sameConfiguration(other *rolloutModel) bool {
	names := maps.Clone(rolloutAttributed.configurable)
	delete(names, "timeouts")
	return sameValues(m, other, names)
}

// title names a rollout in diagnostics.
func (m *rolloutModel) title() string { return "release " + m.Base.ValueString() }

// forget makes unknown what the next apply finds out.
func (m *rolloutModel) forget() {
	m.Progress, m.Results, m.Complete = types.ListUnknown(waveProgressType),
		types.MapUnknown(vmResultType), types.BoolUnknown()
}

// fromOutcome records what became of the VMs.
func (m *rolloutModel) fromOutcome(ctx context.Context, waves [][]string,
	outcome rollout.Outcome) (diags diag.Diagnostics) {
	progress := make([]waveProgressModel, len(waves))
	results := map[string]vmResultModel{}
	for i, wave := range waves {
		at := &progress[i]
		at.VMs = int64(len(wave))
		for _, name := range wave {
			one := outcome[name]
			if one == nil {
				one = &rollout.Result{Wave: i + 1, State: rollout.Waits}
			}
			switch one.State {
			case rollout.Updated, rollout.Had:
				at.Updated++
			case rollout.Failed:
				at.Failed++
			}
			result := vmResultModel{
				Wave: int64(one.Wave), State: string(one.State), Why: optionalText(one.Why),
				FailedChecks: map[string]string{},
				Seconds:      round(one.Took.Seconds()), InterruptionMS: round(one.Away.Seconds() * 1000),
			}
			for _, check := range one.Failed {
				if check.Check != "" {
					result.FailedChecks[guestText(check.Check)] = guestText(check.Why)
				}
			}
			results[name] = result
		}
		switch {
		case at.Updated == at.VMs:
			at.State = "done"
		case !slices.ContainsFunc(wave,
			func(name string) bool { return outcome[name] != nil && outcome[name].State != rollout.Waits }):
			at.State = "waiting"
		default:
			at.State = "incomplete"
		}
	}
	var d diag.Diagnostics
	m.Progress, d = types.ListValueFrom(ctx, waveProgressType, progress)
	diags.Append(d...)
	m.Results, d = types.MapValueFrom(ctx, vmResultType, results)
	diags.Append(d...)
	m.Complete = types.BoolValue(outcome.Complete() && len(outcome) == len(results))
	return diags
}

// foretold describes an assessment; nil is one that interrupts nothing.
func foretold(impact *agentapi.Impact) vmForetoldModel {
	impact = reached(impact)
	level := levelName(agentapi.Level_NONE)
	if impact.GetLevel() != agentapi.Level_LEVEL_UNSPECIFIED {
		level = levelName(impact.GetLevel())
	}
	model := vmForetoldModel{Level: &level, Units: map[string]string{}, Reasons: guestTexts(impact.GetReasons())}
	for _, unit := range limited(impact.GetUnits()) {
		model.Units[guestText(unit.GetUnit())] = levelName(unit.GetLevel())
	}
	return model
}

// noted is a VM of which nothing is foretold but a note.
func noted(note string) vmForetoldModel {
	return vmForetoldModel{Units: map[string]string{}, Reasons: []string{}, Note: &note}
}

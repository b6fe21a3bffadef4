package provider

import (
	"cmp"
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmDataSource is data.sharedos_vm: what is known of a VM, from any configuration, and the details of its last refresh,
// which no plan of the VM is to repeat.
type vmDataSource struct{ connectedData }

var _ datasource.DataSourceWithConfigure = (*vmDataSource)(nil)

// Metadata implements datasource.DataSource.
func (d *vmDataSource) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_vm"
}

// refreshDetails is the attribute last_refresh of data.sharedos_vm.
type refreshDetails struct {
	From       string             `tfsdk:"from"`
	To         string             `tfsdk:"to"`
	Committed  bool               `tfsdk:"committed"`
	Error      types.String       `tfsdk:"error"`
	Level      string             `tfsdk:"level"`
	Unaffected []string           `tfsdk:"unaffected"`
	Pinned     []string           `tfsdk:"pinned"`
	Left       []string           `tfsdk:"left"`
	Remaining  []string           `tfsdk:"remaining"`
	Pending    []string           `tfsdk:"pending"`
	Unchecked  []string           `tfsdk:"unchecked"`
	EtcCarried int64              `tfsdk:"etc_carried"`
	Purged     int64              `tfsdk:"purged"`
	TimingsMS  map[string]float64 `tfsdk:"timings_ms"`
	Timeline   []stepModel        `tfsdk:"timeline"`
}

func refreshDetailsAttribute() resource.SingleNestedAttribute {
	return resource.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "The last refresh, as the agent reports it; null if there was none since the VM was " +
			"made, and while the agent does not answer.",
		Attributes: map[string]resource.Attribute{
			"from":       computedText("Id of the base release before the refresh."),
			"to":         computedText("Id of the base release that the VM was to be moved to."),
			"committed":  computedBool("Whether the VM was moved. Otherwise the refresh was refused or rolled back."),
			"error":      computedText("Why it was refused or rolled back; null if it was not."),
			"level":      computedText("Impact of the refresh."),
			"unaffected": computedTexts("Units that use nothing that changed. They were left alone."),
			"pinned": computedTexts("Units that keep the old `/usr` in their own mount namespace and use nothing " +
				"that changed."),
			"left": computedTexts(
				"Units that `refresh.policy` left alone, with the reason. They run old code until you restart them."),
			"remaining": computedTexts(
				"Processes that still ran old code when the refresh ended, whichever refresh brought the new " +
					"code. The attribute `remaining` of the VM has those of now."),
			"pending": computedTexts(
				"Changes that were still waiting for a power-off and start when the refresh ended."),
			"unchecked": computedTexts(
				"Health checks that already failed before the refresh, with the reason. Their results were ignored."),
			"purged": resource.Int64Attribute{Computed: true,
				MarkdownDescription: "Number of files and directories that went with " +
					"components, because `refresh.purge` is true."},
			"etc_carried": resource.Int64Attribute{Computed: true,
				MarkdownDescription: "Number of files in `/etc` that were updated to " +
					"the version in the release."},
			"timings_ms": resource.MapAttribute{
				Computed: true, ElementType: types.Float64Type,
				MarkdownDescription: "Milliseconds of each step. Steps named `renew` with a unit are parts of " +
					"`restart` or `roll back`, and several of them can run at the same time. `come up` is a part of " +
					"`start`.",
			},
			"timeline": resource.ListNestedAttribute{
				Computed: true,
				MarkdownDescription: fmt.Sprintf("The steps that follow one another, in their order, at most %d.",
					maxTimeline),
				NestedObject: resource.NestedAttributeObject{Attributes: map[string]resource.Attribute{
					"step": computedText("Name of the step."),
					"ms": resource.Float64Attribute{Computed: true,
						MarkdownDescription: "Milliseconds that it took."},
				}},
			},
		},
	}
}

var refreshDetailsTypes = typesOf(refreshDetailsAttribute().Attributes)

// notInData are the attributes of the resource that say how Terraform is to change a VM, what its last
// plan and apply said, and what is written into the guest, which is for the state of the resource alone.
var notInData = []string{"refresh", "ready", "impact", "detach_on_demand", "last_refresh", "files", "units", "users"}

// vmDataAttributes are the attributes of the resource that describe a VM as it is.
func vmDataAttributes() map[string]resource.Attribute {
	attributes := vmAttributes()
	for _, name := range notInData {
		delete(attributes, name)
	}
	return attributes
}

// Schema implements datasource.DataSource.
func (d *vmDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	attributes := computedData(vmDataAttributes())
	attributes["last_refresh"] = computedData(
		map[string]resource.Attribute{"last_refresh": refreshDetailsAttribute()})["last_refresh"]
	attributes["silent"] = schema.BoolAttribute{
		Computed: true, MarkdownDescription: "Whether the VM runs and its agent does not answer, so that what it runs is not known.",
	}
	attributes["name"] = schema.StringAttribute{
		Required: true, MarkdownDescription: "Name of the VM.", Validators: []validator.String{isName},
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A VM of this provider on the host, from any configuration: what it is, what it runs, and the details of its last refresh.",
		Attributes:          attributes,
	}
}

// Read implements datasource.DataSource.
func (d *vmDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var name string
	if resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root("name"), &name)...); resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	backend, err := d.connection.get(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "find", object: vmName(name), err: err})...)
		return
	}
	found, err := backend.VMs().Read(ctx, name)
	if err != nil {
		resp.Diagnostics.Append(failedAt(path.Root("name"), failure{do: "find", object: vmName(name), err: err})...)
		return
	}
	if silent(found) {
		resp.Diagnostics.AddWarning("The agent of "+vmName(name)+" does not answer",
			failure{err: cmp.Or(found.NoAnswer, vm.ErrNoAnswer),
				next: "What it runs is not known: stack is that of its definition, and last_refresh is null."}.detail())
	}
	model, diags := describedVM(ctx, found)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(setAttributes(ctx, &resp.State, &model, vmDataAttributes())...)
	details := types.ObjectNull(refreshDetailsTypes)
	if report := found.Agent.GetLast(); report.GetDone() {
		details = object(ctx, refreshDetailsTypes, detailsOf(report), &resp.Diagnostics)
	}
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("last_refresh"), details)...)
	resp.Diagnostics.Append(resp.State.SetAttribute(ctx, path.Root("silent"), silent(found))...)
}

func detailsOf(report *agentapi.Report) refreshDetails {
	details := refreshDetails{
		From: guestText(report.GetFrom().GetBase()), To: guestText(report.GetTo().GetBase()),
		Committed: report.GetCommitted(), Error: optionalText(report.GetError()),
		Level:      levelName(report.GetImpact().GetLevel()),
		Unaffected: guestTexts(report.GetImpact().GetUnaffected()), Pinned: guestTexts(report.GetPinned()),
		Left: guestTexts(report.GetLeft()), Remaining: guestTexts(report.GetRemaining()),
		Pending:   guestTexts(report.GetPending()),
		Unchecked: guestTexts(report.GetUnchecked()), EtcCarried: report.GetEtcCarried(), Purged: report.GetPurged(),
		TimingsMS: map[string]float64{},
		Timeline:  timelineOf(report),
	}
	for _, timing := range limited(report.GetTimings()) {
		details.TimingsMS[guestText(timing.GetStep())] += float64(timing.GetMicros()) / 1000
	}
	return details
}

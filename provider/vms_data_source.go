package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// vmsDataSource is data.sharedos_vms: all VMs of the pool, from any configuration.
type vmsDataSource struct{ connectedData }

var _ datasource.DataSourceWithConfigure = (*vmsDataSource)(nil)

// Metadata implements datasource.DataSource.
func (d *vmsDataSource) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_vms"
}

// vmsDataModel is data.sharedos_vms.
type vmsDataModel struct {
	vmFilter

	Names []string        `tfsdk:"names"`
	VMs   []listedVMModel `tfsdk:"vms"`
}

// listedVMModel is one value of the attribute vms.
type listedVMModel struct {
	Name           string       `tfsdk:"name"`
	UUID           string       `tfsdk:"uuid"`
	State          string       `tfsdk:"state"`
	Silent         types.Bool   `tfsdk:"silent"`
	HasPending     types.Bool   `tfsdk:"has_pending"`
	BaseName       types.String `tfsdk:"base_name"`
	ComponentNames types.List   `tfsdk:"component_names"`
	Stack          types.Object `tfsdk:"stack"`
	Pending        types.List   `tfsdk:"pending"`
	Remaining      types.List   `tfsdk:"remaining"`
	Addresses      types.Map    `tfsdk:"addresses"`
	Error          types.String `tfsdk:"error"`
}

func listedVMAttributes() map[string]schema.Attribute {
	stack := (&vmStack{}).attributes()
	return computedData(map[string]resource.Attribute{
		"name":  computedText("Name of the VM."),
		"uuid":  computedText("UUID of the libvirt domain."),
		"state": computedText("State of the domain: `running`, `off`, `paused` or `crashed`."),
		"silent": computedBool(
			"Whether the VM runs and its agent does not answer; null if the VM could not be read."),
		"has_pending": computedBool(
			"Whether the filter `pending = true` chooses it; null for a silent VM and one that could not be read."),
		"base_name":       computedText("Name of the base that it runs; null if the release is no longer in the pool."),
		"component_names": computedTexts("Names of the components that it runs, or is to run, sorted."),
		"stack":           stack["stack"], "pending": stack["pending"], "remaining": stack["remaining"],
		"addresses": addressesAttribute(),
		"error":     computedText("Why the VM could not be read; null if it was. What is not known then is null."),
	})
}

// Schema implements datasource.DataSource.
func (d *vmsDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "VMs of this provider in the pool, from any configuration, that all given attributes " +
			"apply to. A VM whose agent does not answer delays no other one.",
		Attributes: map[string]schema.Attribute{
			"base": schema.StringAttribute{Optional: true, MarkdownDescription: filterBase,
				Validators: []validator.String{isName}},
			"release": schema.StringAttribute{Optional: true, MarkdownDescription: filterRelease,
				Validators: []validator.String{isRelease}},
			"component": schema.StringAttribute{Optional: true, MarkdownDescription: filterComponent,
				Validators: []validator.String{isName}},
			"pending": schema.BoolAttribute{Optional: true, MarkdownDescription: filterPending},
			"silent":  schema.BoolAttribute{Optional: true, MarkdownDescription: filterSilent},
			"names": schema.ListAttribute{
				Computed: true, ElementType: types.StringType, MarkdownDescription: "Names of these VMs, sorted.",
			},
			"vms": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "These VMs, sorted by name. A VM that cannot be read is warned " +
					"of, and is in the list only if no attribute is given.",
				NestedObject: schema.NestedAttributeObject{Attributes: listedVMAttributes()},
			},
		},
	}
}

// Read implements datasource.DataSource.
func (d *vmsDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	model := vmsDataModel{Names: []string{}, VMs: []listedVMModel{}}
	for name, value := range map[string]any{
		"base": &model.Base, "release": &model.Release, "component": &model.Component,
		"pending": &model.Pending, "silent": &model.Silent,
	} {
		resp.Diagnostics.Append(req.Config.GetAttribute(ctx, path.Root(name), value)...)
	}
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	backend, err := d.connection.get(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "list", object: "the VMs of the pool", err: err})...)
		return
	}
	found, diags := model.find(ctx, backend)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	for _, one := range found {
		listed, diags := one.model(ctx)
		resp.Diagnostics.Append(diags...)
		model.Names = append(model.Names, one.Name)
		model.VMs = append(model.VMs, listed)
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}

// model describes a VM of the list.
func (f foundVM) model(ctx context.Context) (listedVMModel, diag.Diagnostics) {
	model := listedVMModel{
		Name: f.Name, UUID: f.UUID, State: stateName(f.State),
		Silent: types.BoolNull(), HasPending: types.BoolNull(), BaseName: types.StringNull(), Error: types.StringNull(),
		ComponentNames: types.ListNull(types.StringType), Stack: types.ObjectNull(stackTypes),
		Pending: types.ListNull(types.StringType), Remaining: types.ListNull(types.StringType),
		Addresses: types.MapNull(addressesType),
	}
	if f.VM == nil {
		model.Error = types.StringValue(sentence(f.Err))
		return model, nil
	}
	whole, diags := describedVM(ctx, f.VM)
	model.Stack, model.Pending, model.Remaining, model.Addresses = whole.Stack, whole.Pending,
		whole.Remaining, whole.Addresses
	model.Silent = types.BoolValue(silent(f.VM))
	if !silent(f.VM) {
		model.HasPending = types.BoolValue(waits(f.VM))
	}
	if f.base != "" {
		model.BaseName = types.StringValue(f.base)
	}
	model.ComponentNames = list(ctx, f.components, &diags)
	return model, diags
}

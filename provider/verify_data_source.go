package provider

import (
	"context"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/datasourcevalidator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
)

// verifyDataSource is data.sharedos_verify: whether what the pool holds is what its names say.
type verifyDataSource struct{ connectedData }

var (
	_ datasource.DataSourceWithConfigure        = (*verifyDataSource)(nil)
	_ datasource.DataSourceWithConfigValidators = (*verifyDataSource)(nil)
)

// ConfigValidators implements datasource.DataSourceWithConfigValidators.
func (d *verifyDataSource) ConfigValidators(context.Context) []datasource.ConfigValidator {
	return []datasource.ConfigValidator{datasourcevalidator.Conflicting(path.MatchRoot("base"),
		path.MatchRoot("component"))}
}

// verifyTimeout bounds reading a whole pool.
const verifyTimeout = time.Hour

// Metadata implements datasource.DataSource.
func (d *verifyDataSource) Metadata(_ context.Context, req datasource.MetadataRequest,
	resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_verify"
}

// verifyModel is data.sharedos_verify.
type verifyModel struct {
	Base      types.String   `tfsdk:"base"`
	Component types.String   `tfsdk:"component"`
	Objects   int64          `tfsdk:"objects"`
	Bytes     int64          `tfsdk:"bytes"`
	Seconds   float64        `tfsdk:"seconds"`
	Damaged   []damagedModel `tfsdk:"damaged"`
}

type damagedModel struct {
	Volume   string   `tfsdk:"volume"`
	Problem  string   `tfsdk:"problem"`
	Releases []string `tfsdk:"releases"`
}

// Schema implements datasource.DataSource.
func (d *verifyDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Reads every layer, kernel, contents list and manifest that the releases in the pool " +
			"refer to, and compares each with its id. This takes as long as reading the pool does. Reads of VMs " +
			"compare only names and sizes.",
		Attributes: map[string]schema.Attribute{
			"base": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Name of the base whose releases are verified. Default: all bases and components."},
			"component": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of the component whose releases are verified. At most one of `base` and `component` is set.",
			},
			"objects": schema.Int64Attribute{Computed: true, MarkdownDescription: "Number of volumes that were read."},
			"bytes":   schema.Int64Attribute{Computed: true, MarkdownDescription: "Bytes that were read."},
			"seconds": schema.Float64Attribute{Computed: true, MarkdownDescription: "Seconds that this took."},
			"damaged": schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: "Volumes that are missing or damaged, sorted by name; empty if " +
					"all are as they should be. Delete a damaged volume with `virsh vol-delete`, and apply its base " +
					"or component again.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"volume": schema.StringAttribute{Computed: true,
						MarkdownDescription: "Name of the volume in the pool."},
					"problem": schema.StringAttribute{Computed: true, MarkdownDescription: "What is wrong with it."},
					"releases": schema.ListAttribute{
						Computed: true, ElementType: types.StringType,
						MarkdownDescription: "Releases that need it, such as `debian-13 3`.",
					},
				}},
			},
		},
	}
}

// Read implements datasource.DataSource.
func (d *verifyDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	base, component, diags := toVerify(ctx, req.Config)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, verifyTimeout)
	defer cancel()
	began := time.Now()
	found, err := verifyPool(ctx, d.connection, base, component)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "verify", object: "the pool", err: err})...)
		return
	}
	model := verifyModel{
		Base: base, Component: component, Objects: int64(found.Objects), Bytes: found.Bytes,
		Seconds: round(time.Since(began).Seconds()),
		Damaged: make([]damagedModel, len(found.Damaged)),
	}
	for i, one := range found.Damaged {
		model.Damaged[i] = damagedModel{Volume: one.Volume, Problem: plain.Line(one.Problem), Releases: one.Releases}
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}

// toVerify reads the names of the base and the component whose releases are verified; null for those of all.
func toVerify(ctx context.Context, config tfsdk.Config) (base, component types.String, diags diag.Diagnostics) {
	diags.Append(config.GetAttribute(ctx, path.Root("base"), &base)...)
	diags.Append(config.GetAttribute(ctx, path.Root("component"), &component)...)
	return base, component, diags
}

// verifyPool reads what the releases of a base or component refer to; those of all if both are null.
func verifyPool(ctx context.Context, on *connection, base, component types.String) (*publish.Verified, error) {
	backend, err := on.get(ctx)
	switch {
	case err != nil:
		return nil, err
	case component.IsNull():
		return backend.Publisher().Verify(ctx, base.ValueString())
	default:
		return backend.Components().Verify(ctx, component.ValueString())
	}
}

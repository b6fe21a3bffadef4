package provider

import (
	"context"
	"maps"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// baseDataSource is data.sharedos_base.
type baseDataSource struct{ releaseDataSource }

func newBaseDataSource() *baseDataSource { return &baseDataSource{releaseDataSource{kind: baseKind}} }

var (
	_ datasource.DataSourceWithConfigure        = (*baseDataSource)(nil)
	_ datasource.DataSourceWithConfigValidators = (*baseDataSource)(nil)
)

// baseDataModel is data.sharedos_base.
type baseDataModel struct {
	foundFields
	baseSystem
	Packages types.Map `tfsdk:"packages"`
}

// Schema implements datasource.DataSource.
func (d *baseDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	more := map[string]resource.Attribute{"packages": resource.MapAttribute{
		Computed: true, ElementType: types.StringType,
		MarkdownDescription: "Versions of the installed packages, by package name.",
	}}
	maps.Copy(more, systemAttributes())
	resp.Schema = d.schema("A base", more)
}

// Read implements datasource.DataSource.
func (d *baseDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var model baseDataModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	_, manifest, diags := d.read(ctx, &model.foundFields)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	model.baseSystem.describe(manifest)
	packages := make(map[string]string, len(manifest.Packages))
	for _, p := range manifest.Packages {
		packages[p.Name] = p.Version
	}
	model.Packages, diags = types.MapValueFrom(ctx, types.StringType, packages)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}

package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
)

// componentDataSource is data.sharedos_component.
type componentDataSource struct{ releaseDataSource }

func newComponentDataSource() *componentDataSource {
	return &componentDataSource{releaseDataSource{kind: componentKind}}
}

var (
	_ datasource.DataSourceWithConfigure        = (*componentDataSource)(nil)
	_ datasource.DataSourceWithConfigValidators = (*componentDataSource)(nil)
)

// componentDataModel is data.sharedos_component.
type componentDataModel struct {
	foundFields
	componentSystem
}

// Schema implements datasource.DataSource.
func (d *componentDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	more := componentSystemAttributes()
	more["base"] = resource.StringAttribute{Computed: true,
		MarkdownDescription: "Id of the base release that the component is built on: " +
			"a VM can have the component only on exactly this release."}
	resp.Schema = d.schema("A component", more)
}

// Read implements datasource.DataSource.
func (d *componentDataSource) Read(ctx context.Context, req datasource.ReadRequest, resp *datasource.ReadResponse) {
	var model componentDataModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	backend, manifest, diags := d.read(ctx, &model.foundFields)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(model.componentSystem.describe(ctx, backend, manifest)...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}

package provider

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/datasourcevalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// baseDataSource is data.sharedos_base: a base that another configuration made, or one release of it.
type baseDataSource struct{ connectedData }

var (
	_ datasource.DataSourceWithConfigure        = (*baseDataSource)(nil)
	_ datasource.DataSourceWithConfigValidators = (*baseDataSource)(nil)
)

// Metadata implements datasource.DataSource.
func (d *baseDataSource) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_base"
}

// baseDataModel is data.sharedos_base.
type baseDataModel struct {
	Name     types.String `tfsdk:"name"`
	Release  types.String `tfsdk:"release"`
	Sequence types.Int64  `tfsdk:"sequence"`

	Previous types.String `tfsdk:"previous"`
	Layers   types.List   `tfsdk:"layers"`
	Bytes    types.Int64  `tfsdk:"bytes"`
	Kernel   types.String `tfsdk:"kernel"`
	OS       types.String `tfsdk:"os"`
	Packages types.Map    `tfsdk:"packages"`
	History  types.List   `tfsdk:"history"`
}

// Schema implements datasource.DataSource.
func (d *baseDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A base in the pool, whoever made it: its newest release, or an exact one. " +
			"The release has to be signed with this provider's operator key.",
		Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "Name of the base. Without `release` and `sequence` its newest release is found.",
				Validators:          []validator.String{isName},
			},
			"release": schema.StringAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "Id of the release, of the form `sha256:<64 hex>`: what a VM's `base` takes. Set it to find exactly this one.",
				Validators:          []validator.String{isRelease},
			},
			"sequence": schema.Int64Attribute{
				Optional: true, Computed: true,
				MarkdownDescription: "Number of the release, from 1. Set it, with `name`, to find the release of that number.",
				Validators:          []validator.Int64{int64validator.AtLeast(1), int64validator.AlsoRequires(path.MatchRoot("name"))},
			},
			"previous": schema.StringAttribute{
				Computed:            true,
				MarkdownDescription: "Id of the release before; null for the first.",
			},
			"layers": schema.ListNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Layers of the release, bottom to top.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"id":    schema.StringAttribute{Computed: true, MarkdownDescription: "Id of the layer: its dm-verity root digest, of the form `sha256:<64 hex>`."},
					"size":  schema.Int64Attribute{Computed: true, MarkdownDescription: "Size in bytes, hash tree included."},
					"delta": schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether it holds only what differs from the layers below."},
				}},
			},
			"bytes":    schema.Int64Attribute{Computed: true, MarkdownDescription: "Bytes of all layers of the release together."},
			"kernel":   schema.StringAttribute{Computed: true, MarkdownDescription: "Kernel release, as `uname -r` prints it."},
			"os":       schema.StringAttribute{Computed: true, MarkdownDescription: "Name of the operating system: `PRETTY_NAME` of its `os-release`."},
			"packages": schema.MapAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: "Versions of the installed packages by name."},
			"history": schema.ListNestedAttribute{
				Computed:            true,
				MarkdownDescription: describeHistory,
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"release":     schema.StringAttribute{Computed: true, MarkdownDescription: describeRecorded},
					"sequence":    schema.Int64Attribute{Computed: true, MarkdownDescription: describeNumber},
					"published":   schema.StringAttribute{Computed: true, MarkdownDescription: describePublished},
					"kernel":      schema.StringAttribute{Computed: true, MarkdownDescription: describeKernel},
					"os":          schema.StringAttribute{Computed: true, MarkdownDescription: describeOS},
					"bytes":       schema.Int64Attribute{Computed: true, MarkdownDescription: describeBytes},
					"added_bytes": schema.Int64Attribute{Computed: true, MarkdownDescription: describeAdded},
					"vms":         schema.ListAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: describeVMs},
				}},
			},
		},
	}
}

// ConfigValidators implements datasource.DataSourceWithConfigValidators.
func (d *baseDataSource) ConfigValidators(context.Context) []datasource.ConfigValidator {
	name, id, sequence := path.MatchRoot("name"), path.MatchRoot("release"), path.MatchRoot("sequence")
	return []datasource.ConfigValidator{
		datasourcevalidator.AtLeastOneOf(name, id),
		datasourcevalidator.Conflicting(id, sequence),
	}
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
	backend, err := d.connection.get(ctx)
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "find", object: model.object(), err: err})...)
		return
	}
	id, manifest, diags := model.find(ctx, backend)
	if resp.Diagnostics.Append(diags...); resp.Diagnostics.HasError() {
		return
	}
	var base baseModel
	resp.Diagnostics.Append(base.describe(ctx, id, manifest, d.connection.chain())...)
	history, diags := readHistory(ctx, backend, manifest.Name)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &baseDataModel{
		Name: types.StringValue(manifest.Name), Release: base.Release, Sequence: base.Sequence,
		Previous: base.Previous, Layers: base.Layers, Bytes: base.Bytes, Kernel: base.Kernel, OS: base.OS, Packages: base.Packages,
		History: history,
	})...)
}

// object names what is looked for.
func (m *baseDataModel) object() string {
	switch {
	case m.Name.IsNull():
		return "release " + m.Release.ValueString()
	case !m.Sequence.IsNull():
		return fmt.Sprintf("release %d of %s", m.Sequence.ValueInt64(), baseName(m.Name.ValueString()))
	default:
		return baseName(m.Name.ValueString())
	}
}

// find finds the release.
func (m *baseDataModel) find(ctx context.Context, backend Backend) (tree.Digest, *release.Manifest, diag.Diagnostics) {
	fail := func(at string, err error, next string) (tree.Digest, *release.Manifest, diag.Diagnostics) {
		return tree.Digest{}, nil, failedAt(path.Root(at), failure{do: "find", object: m.object(), err: err, next: next})
	}
	publisher, name := backend.Publisher(), m.Name.ValueString()
	if m.Release.IsNull() && m.Sequence.IsNull() {
		id, manifest, err := publisher.Newest(ctx, name)
		if err != nil {
			return fail("name", err, "")
		}
		return id, manifest, nil
	}
	at, text := "release", m.Release.ValueString()
	if m.Release.IsNull() {
		at = "sequence"
		history, err := publisher.History(ctx, name)
		if err != nil {
			return fail("name", err, "")
		}
		var numbers []string
		for _, one := range history {
			if one.Manifest == nil {
				continue
			}
			if one.Manifest.Sequence == uint64(m.Sequence.ValueInt64()) {
				text = one.ID.String()
			}
			numbers = append(numbers, strconv.FormatUint(one.Manifest.Sequence, 10))
		}
		if text == "" {
			return fail(at, fmt.Errorf("the pool keeps no such release: %w", store.ErrNotFound),
				fmt.Sprintf("It keeps the releases %s. Keep more with retain in the base's configuration.", strings.Join(numbers, ", ")))
		}
	}
	id, err := tree.ParseDigest(text)
	if err != nil {
		return fail(at, err, "")
	}
	manifest, err := publisher.Get(ctx, id)
	switch {
	case err != nil:
		return fail(at, err, "")
	case manifest.Kind != release.Base:
		return fail(at, fmt.Errorf("release %s is a %s, not a base", id, manifest.Kind), "")
	case name != "" && manifest.Name != name:
		return fail(at, fmt.Errorf("release %s is of base %q", id, manifest.Name), "")
	}
	return id, manifest, nil
}

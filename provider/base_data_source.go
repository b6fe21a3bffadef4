package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/datasourcevalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// baseDataSource is data.sharedos_base: the newest or an exact release of a base, from any configuration.
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
	Name types.String `tfsdk:"name"`
	manifestFields
	baseSystem
	Packages types.Map  `tfsdk:"packages"`
	History  types.List `tfsdk:"history"`
}

// Schema implements datasource.DataSource.
func (d *baseDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	attributes := computedData(manifestAttributes(baseKind))
	maps.Copy(attributes, computedData(systemAttributes()))
	attributes["history"] = computedData(map[string]resource.Attribute{"history": historyAttribute()})["history"]
	attributes["packages"] = schema.MapAttribute{
		Computed: true, ElementType: types.StringType,
		MarkdownDescription: "Versions of the installed packages, by package name.",
	}
	attributes["name"] = schema.StringAttribute{
		Optional: true, Computed: true,
		MarkdownDescription: "Name of the base. Without `release` and `sequence`, its newest release is read.",
		Validators:          []validator.String{isName},
	}
	attributes["release"] = schema.StringAttribute{
		Optional: true, Computed: true,
		MarkdownDescription: "Id of the release, of the form `sha256:<64 hex>`: the value for `base` of a VM. Set it " +
			"to read exactly this release.",
		Validators: []validator.String{isRelease},
	}
	attributes["sequence"] = schema.Int64Attribute{
		Optional: true, Computed: true,
		MarkdownDescription: "Number of the release, counted from 1. Set it, together with `name`, to read the " +
			"release with that number.",
		Validators: []validator.Int64{int64validator.AtLeast(1), int64validator.AlsoRequires(path.MatchRoot("name"))},
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "A base in the pool, from any configuration: its newest release, or an exact one. " +
			"The release must be signed with this provider's operator key.",
		Attributes: attributes,
	}
}

// computedData is the schema of a resource's computed attributes in a data source.
func computedData(attributes map[string]resource.Attribute) map[string]schema.Attribute {
	data := make(map[string]schema.Attribute, len(attributes))
	for name, attribute := range attributes {
		switch a := attribute.(type) {
		case resource.StringAttribute:
			data[name] = schema.StringAttribute{Computed: true, MarkdownDescription: a.MarkdownDescription}
		case resource.Int64Attribute:
			data[name] = schema.Int64Attribute{Computed: true, MarkdownDescription: a.MarkdownDescription}
		case resource.BoolAttribute:
			data[name] = schema.BoolAttribute{Computed: true, MarkdownDescription: a.MarkdownDescription}
		case resource.ListAttribute:
			data[name] = schema.ListAttribute{Computed: true, ElementType: a.ElementType, MarkdownDescription: a.MarkdownDescription}
		case resource.MapAttribute:
			data[name] = schema.MapAttribute{Computed: true, ElementType: a.ElementType, MarkdownDescription: a.MarkdownDescription}
		case resource.Float64Attribute:
			data[name] = schema.Float64Attribute{Computed: true, MarkdownDescription: a.MarkdownDescription}
		case resource.SingleNestedAttribute:
			data[name] = schema.SingleNestedAttribute{
				Computed: true, MarkdownDescription: a.MarkdownDescription, Attributes: computedData(a.Attributes),
			}
		case resource.ListNestedAttribute:
			data[name] = schema.ListNestedAttribute{
				Computed: true, MarkdownDescription: a.MarkdownDescription,
				NestedObject: schema.NestedAttributeObject{Attributes: computedData(a.NestedObject.Attributes)},
			}
		}
	}
	return data
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
	found := baseDataModel{Name: types.StringValue(manifest.Name)}
	resp.Diagnostics.Append(found.manifestFields.describe(ctx, id, manifest)...)
	found.baseSystem.describe(manifest)
	packages := make(map[string]string, len(manifest.Packages))
	for _, p := range manifest.Packages {
		packages[p.Name] = p.Version
	}
	found.Packages, diags = types.MapValueFrom(ctx, types.StringType, packages)
	resp.Diagnostics.Append(diags...)
	found.History, diags = baseKind.readHistory(ctx, backend, manifest.Name, backend.Publisher().Offered(id) != nil)
	resp.Diagnostics.Append(diags...)
	resp.Diagnostics.Append(resp.State.Set(ctx, &found)...)
}

// object names the object of the search in diagnostics.
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
				fmt.Sprintf("It keeps the releases %s. To keep more, set retain in the configuration of the base.", strings.Join(numbers, ", ")))
		}
	}
	id, err := tree.ParseDigest(text)
	if err != nil {
		return fail(at, err, "")
	}
	manifest, err := publisher.Get(ctx, id)
	if prepared := publisher.Offered(id); errors.Is(err, store.ErrNotFound) && prepared != nil {
		manifest, err = prepared, nil // the apply of this plan publishes it
	}
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

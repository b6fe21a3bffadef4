package provider

import (
	"context"
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

// releaseDataSource is what data.sharedos_base and data.sharedos_component do: each reads the newest or an exact
// release, from any configuration.
type releaseDataSource struct {
	connectedData

	kind *releaseKind
}

// Metadata implements datasource.DataSource.
func (d *releaseDataSource) Metadata(_ context.Context, req datasource.MetadataRequest,
	resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_" + string(d.kind.kind)
}

// foundFields are the attributes that both have in common.
type foundFields struct {
	Name types.String `tfsdk:"name"`
	manifestFields
	History types.List `tfsdk:"history"`
}

// schema is the schema of the kind: of what both have in common, and of computed attributes of the resource.
func (d *releaseDataSource) schema(description string, more map[string]resource.Attribute) schema.Schema {
	attributes := computedData(manifestAttributes(d.kind))
	maps.Copy(attributes, computedData(more))
	attributes["history"] = computedData(map[string]resource.Attribute{"history": d.kind.historyAttribute()})["history"]
	attributes["name"] = schema.StringAttribute{
		Optional: true, Computed: true,
		MarkdownDescription: fmt.Sprintf(
			"Name of the %s. Without `release` and `sequence`, its newest release is read.", d.kind.kind),
		Validators: []validator.String{isName},
	}
	attributes["release"] = schema.StringAttribute{
		Optional: true, Computed: true,
		MarkdownDescription: "Id of the release, of the form `sha256:<64 hex>`: " + d.kind.inVM + ". Set it " +
			"to read exactly this release.",
		Validators: []validator.String{isRelease},
	}
	attributes["sequence"] = schema.Int64Attribute{
		Optional: true, Computed: true,
		MarkdownDescription: "Number of the release, counted from 1. Set it, together with `name`, to read the " +
			"release with that number.",
		Validators: []validator.Int64{int64validator.AtLeast(1), int64validator.AlsoRequires(path.MatchRoot("name"))},
	}
	return schema.Schema{
		MarkdownDescription: description +
			" in the pool, from any configuration: its newest release, or an exact one. " +
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
			data[name] = schema.StringAttribute{Computed: true, CustomType: a.CustomType,
				MarkdownDescription: a.MarkdownDescription}
		case resource.Int64Attribute:
			data[name] = schema.Int64Attribute{Computed: true, MarkdownDescription: a.MarkdownDescription}
		case resource.BoolAttribute:
			data[name] = schema.BoolAttribute{Computed: true, MarkdownDescription: a.MarkdownDescription}
		case resource.ListAttribute:
			data[name] = schema.ListAttribute{Computed: true, ElementType: a.ElementType,
				MarkdownDescription: a.MarkdownDescription}
		case resource.MapAttribute:
			data[name] = schema.MapAttribute{Computed: true, ElementType: a.ElementType,
				MarkdownDescription: a.MarkdownDescription}
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
		case resource.MapNestedAttribute:
			data[name] = schema.MapNestedAttribute{
				Computed: true, MarkdownDescription: a.MarkdownDescription,
				NestedObject: schema.NestedAttributeObject{Attributes: computedData(a.NestedObject.Attributes)},
			}
		}
	}
	return data
}

// ConfigValidators implements datasource.DataSourceWithConfigValidators.
func (d *releaseDataSource) ConfigValidators(context.Context) []datasource.ConfigValidator {
	name, id, sequence := path.MatchRoot("name"), path.MatchRoot("release"), path.MatchRoot("sequence")
	return []datasource.ConfigValidator{
		datasourcevalidator.AtLeastOneOf(name, id),
		datasourcevalidator.Conflicting(id, sequence),
	}
}

// read finds the release that is configured, and reads what both kinds have in common into fields. Without diagnostics
// of an error, the manifest is not nil.
func (d *releaseDataSource) read(ctx context.Context,
	fields *foundFields) (backend Backend, manifest *release.Manifest, diags diag.Diagnostics) {
	backend, err := d.connection.get(ctx)
	if err != nil {
		return nil, nil, failed(failure{do: "find", object: fields.object(d.kind), err: err})
	}
	id, manifest, diags := fields.find(ctx, d.kind, backend)
	if diags.HasError() {
		return nil, nil, diags
	}
	*fields = foundFields{Name: types.StringValue(manifest.Name)}
	diags.Append(fields.manifestFields.describe(ctx, id, manifest)...)
	var more diag.Diagnostics
	fields.History, more = d.kind.readHistory(ctx, backend, manifest.Name, d.kind.publisher(backend).Offered(id) != nil)
	return backend, manifest, append(diags, more...)
}

// object names the object of the search in diagnostics.
func (m *foundFields) object(kind *releaseKind) string {
	switch {
	case m.Name.IsNull():
		return "release " + m.Release.ValueString()
	case !m.Sequence.IsNull():
		return fmt.Sprintf("release %d of %s", m.Sequence.ValueInt64(), kind.object(m.Name.ValueString()))
	default:
		return kind.object(m.Name.ValueString())
	}
}

// find finds the release.
func (m *foundFields) find(ctx context.Context, kind *releaseKind,
	backend Backend) (tree.Digest, *release.Manifest, diag.Diagnostics) {
	fail := func(at string, err error, next string) (tree.Digest, *release.Manifest, diag.Diagnostics) {
		return tree.Digest{}, nil,
			failedAt(path.Root(at), failure{do: "find", object: m.object(kind), err: err, next: next})
	}
	publisher, name := kind.publisher(backend), m.Name.ValueString()
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
				fmt.Sprintf("It keeps the releases %s. To keep more, set retain in the configuration of the %s.",
					strings.Join(numbers, ", "), kind.kind))
		}
	}
	id, err := tree.ParseDigest(text)
	if err != nil {
		return fail(at, err, "")
	}
	manifest, err := findRelease(ctx, publisher, id)
	switch {
	case err != nil:
		return fail(at, err, "")
	case manifest.Kind != kind.kind:
		return fail(at, fmt.Errorf("release %s is a %s, not a %s", id, manifest.Kind, kind.kind), "")
	case name != "" && manifest.Name != name:
		return fail(at, fmt.Errorf("release %s is of %s", id, kind.object(manifest.Name)), "")
	}
	return id, manifest, nil
}

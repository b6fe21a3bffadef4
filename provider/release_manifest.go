package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// manifestFields are what the manifest of each release has. Resources and data sources share them.
type manifestFields struct {
	Release  types.String `tfsdk:"release"`
	Sequence types.Int64  `tfsdk:"sequence"`
	Previous types.String `tfsdk:"previous"`
	Layers   types.List   `tfsdk:"layers"`
	Bytes    types.Int64  `tfsdk:"bytes"`
}

// baseSystem is what the manifest of a base has in addition. The resource and the data source share it.
type baseSystem struct {
	Kernel types.String `tfsdk:"kernel"`
	OS     types.String `tfsdk:"os"`
}

// layerModel is one value of the attribute layers.
type layerModel struct {
	ID    string `tfsdk:"id"`
	Size  int64  `tfsdk:"size"`
	Delta bool   `tfsdk:"delta"`
}

func manifestAttributes(kind *releaseKind) map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"release": computedText("Id of the newest release, of the form `sha256:<64 hex>`: " + kind.inVM +
			". A plan shows it, unless `build_at_plan` is false in the provider block and the release has to be built first."),
		"sequence": computedNumber("Number of the release, counted from 1."),
		"previous": computedText("Id of the previous release; null for the first."),
		"layers":   layersAttribute(),
		"bytes": computedNumber("Bytes of all layers of the release together. The pool stores them once, however " +
			"many VMs run them."),
	}
}

func systemAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"kernel": computedText("Kernel release, as `uname -r` prints it."),
		"os":     computedText("Name of the operating system: `PRETTY_NAME` in its `os-release`."),
	}
}

func layersAttribute() schema.ListNestedAttribute {
	return schema.ListNestedAttribute{
		Computed:            true,
		MarkdownDescription: "Layers of the release, from bottom to top.",
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"id":    computedText("Id of the layer: its dm-verity root digest, of the form `sha256:<64 hex>`."),
			"size":  computedNumber("Size in bytes, including the hash tree."),
			"delta": computedBool("Whether the layer contains only the differences from the layers below."),
		}},
	}
}

var layerType = types.ObjectType{AttrTypes: typesOf(layersAttribute().NestedObject.Attributes)}

func (b *manifestFields) describe(ctx context.Context, id tree.Digest,
	manifest *release.Manifest) (diags diag.Diagnostics) {
	b.Release = types.StringValue(id.String())
	b.Sequence = types.Int64Value(int64(manifest.Sequence))
	b.Previous = types.StringNull()
	if !manifest.Previous.IsZero() {
		b.Previous = types.StringValue(manifest.Previous.String())
	}
	layers := make([]layerModel, len(manifest.Layers))
	var bytes int64
	for i, layer := range manifest.Layers {
		layers[i] = layerModel{ID: layer.ID.String(), Size: layer.Size, Delta: layer.Delta}
		bytes += layer.Size
	}
	b.Layers, diags = types.ListValueFrom(ctx, layerType, layers)
	b.Bytes = types.Int64Value(bytes)
	return diags
}

func (b *baseSystem) describe(manifest *release.Manifest) {
	b.Kernel = types.StringNull()
	if manifest.Kernel != nil {
		b.Kernel = types.StringValue(manifest.Kernel.Release)
	}
	b.OS = types.StringValue(manifest.OS)
}

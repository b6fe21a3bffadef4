package provider

import (
	"context"
	"errors"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// baseModel is sharedos_base in config, plan and state.
type baseModel struct {
	Name types.String `tfsdk:"name"`

	Debian      types.Object `tfsdk:"debian"`
	Archive     types.Object `tfsdk:"archive"`
	Directory   types.Object `tfsdk:"directory"`
	OCI         types.Object `tfsdk:"oci"`
	DiskImage   types.Object `tfsdk:"disk_image"`
	Limits      types.Object `tfsdk:"limits"`
	PinAccounts types.Bool   `tfsdk:"pin_accounts"`
	Retain      types.Int64  `tfsdk:"retain"`

	SourceDigest types.String `tfsdk:"source_digest"`

	Release    types.String `tfsdk:"release"`
	Sequence   types.Int64  `tfsdk:"sequence"`
	Previous   types.String `tfsdk:"previous"`
	Layers     types.List   `tfsdk:"layers"`
	Bytes      types.Int64  `tfsdk:"bytes"`
	Kernel     types.String `tfsdk:"kernel"`
	OS         types.String `tfsdk:"os"`
	Packages   types.Map    `tfsdk:"packages"`
	Change     types.Object `tfsdk:"change"`
	DeltasLeft types.Int64  `tfsdk:"deltas_left"`
	NextLayer  types.String `tfsdk:"next_layer"`
	History    types.List   `tfsdk:"history"`

	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

// layerModel is one layer of a release.
type layerModel struct {
	ID    string `tfsdk:"id"`
	Size  int64  `tfsdk:"size"`
	Delta bool   `tfsdk:"delta"`
}

var layerType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"id": types.StringType, "size": types.Int64Type, "delta": types.BoolType,
}}

// unknown marks all that follows from the source as known after apply.
func (m *baseModel) unknown() {
	m.SourceDigest = types.StringUnknown()
	m.Release = types.StringUnknown()
	m.Sequence = types.Int64Unknown()
	m.Previous = types.StringUnknown()
	m.Layers = types.ListUnknown(layerType)
	m.Bytes = types.Int64Unknown()
	m.Kernel = types.StringUnknown()
	m.OS = types.StringUnknown()
	m.Packages = types.MapUnknown(types.StringType)
	m.Change = types.ObjectUnknown(changeTypes)
	m.DeltasLeft = types.Int64Unknown()
	m.NextLayer = types.StringUnknown()
	m.History = types.ListUnknown(recordedType)
}

// carry takes all that follows from the source from an earlier state.
func (m *baseModel) carry(from baseModel) {
	m.SourceDigest = from.SourceDigest
	m.Release, m.Sequence, m.Previous = from.Release, from.Sequence, from.Previous
	m.Layers, m.Bytes, m.Kernel = from.Layers, from.Bytes, from.Kernel
	m.OS, m.Packages, m.Change, m.DeltasLeft = from.OS, from.Packages, from.Change, from.DeltasLeft
	m.NextLayer = from.NextLayer
}

// describe takes all that follows from the source from a manifest. The change stays as it was if the release is
// the one that the model had already, since a manifest does not tell it.
func (m *baseModel) describe(ctx context.Context, id tree.Digest, manifest *release.Manifest, chain chain) diag.Diagnostics {
	var diags diag.Diagnostics
	if m.Release.ValueString() != id.String() || m.Change.IsUnknown() {
		m.Change = types.ObjectNull(changeTypes)
	}
	m.Release = types.StringValue(id.String())
	m.Sequence = types.Int64Value(int64(manifest.Sequence))
	m.Previous = types.StringNull()
	if !manifest.Previous.IsZero() {
		m.Previous = types.StringValue(manifest.Previous.String())
	}
	layers := make([]layerModel, len(manifest.Layers))
	var bytes int64
	for i, layer := range manifest.Layers {
		layers[i] = layerModel{ID: layer.ID.String(), Size: layer.Size, Delta: layer.Delta}
		bytes += layer.Size
	}
	var d diag.Diagnostics
	m.Layers, d = types.ListValueFrom(ctx, layerType, layers)
	diags.Append(d...)
	m.Bytes = types.Int64Value(bytes)
	m.DeltasLeft = types.Int64Value(int64(max(0, chain.most-len(layers))))
	m.NextLayer = types.StringValue(chain.next(len(layers)))
	m.Kernel = types.StringNull()
	if manifest.Kernel != nil {
		m.Kernel = types.StringValue(manifest.Kernel.Release)
	}
	m.OS = types.StringValue(manifest.OS)
	packages := make(map[string]string, len(manifest.Packages))
	for _, p := range manifest.Packages {
		packages[p.Name] = p.Version
	}
	m.Packages, d = types.MapValueFrom(ctx, types.StringType, packages)
	diags.Append(d...)
	return diags
}

// take describes a prepared release. A release that equals the newest one brings no change of its own.
func (m *baseModel) take(ctx context.Context, prepared *publish.Prepared, state *baseModel, chain chain) diag.Diagnostics {
	m.Change = types.ObjectNull(changeTypes)
	if state != nil {
		m.Release, m.Change = state.Release, state.Change
	}
	diags := m.describe(ctx, prepared.ID, prepared.Manifest, chain)
	if prepared.Unchanged || prepared.Change == nil {
		return diags
	}
	var d diag.Diagnostics
	m.Change, d = changeValue(ctx, prepared.Change, prepared.Manifest)
	return append(diags, d...)
}

// errOther means that another release than the planned one came out.
var errOther = errors.New("what the source yields has changed since the plan")

package provider

import (
	"context"
	"path/filepath"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// debianModel is the attribute debian of sharedos_base.
type debianModel struct {
	Suite            types.String `tfsdk:"suite"`
	AdditionalSuites types.List   `tfsdk:"additional_suites"`
	Components       types.List   `tfsdk:"components"`
	Packages         types.Set    `tfsdk:"packages"`
	Mirror           types.String `tfsdk:"mirror"`
	Triggers         types.Map    `tfsdk:"triggers"`
}

// archiveModel is the attribute archive of sharedos_base.
type archiveModel struct {
	Path types.String `tfsdk:"path"`
}

// sourceKnown reports whether the source is known throughout.
func (m *baseModel) sourceKnown(ctx context.Context) (bool, error) {
	for _, object := range []types.Object{m.Debian, m.Archive} {
		value, err := object.ToTerraformValue(ctx)
		if err != nil || !value.IsFullyKnown() {
			return false, err
		}
	}
	return true, nil
}

// sourcePath is the attribute that the user chose the source with.
func (m *baseModel) sourcePath() path.Path {
	if !m.Archive.IsNull() {
		return path.Root("archive").AtName("path")
	}
	return path.Root("debian")
}

// spec turns the model into what a Publisher publishes. The source must be known.
func (m *baseModel) spec(ctx context.Context, cache string) (publish.Spec, diag.Diagnostics) {
	spec := publish.Spec{Name: m.Name.ValueString()}
	if !m.Archive.IsNull() {
		var archive archiveModel
		diags := m.Archive.As(ctx, &archive, basetypes.ObjectAsOptions{})
		spec.Source = source.Archive{Path: archive.Path.ValueString(), CacheDir: cache}
		return spec, diags
	}
	var model debianModel
	diags := m.Debian.As(ctx, &model, basetypes.ObjectAsOptions{})
	debian := source.Debian{Suite: model.Suite.ValueString(), Mirror: model.Mirror.ValueString(), CacheDir: filepath.Join(cache, "debian")}
	// Null and empty differ here: null means the suite's own updates and security, empty the main archive alone.
	if !model.AdditionalSuites.IsNull() {
		debian.AdditionalSuites = []string{}
		diags.Append(model.AdditionalSuites.ElementsAs(ctx, &debian.AdditionalSuites, false)...)
	}
	if !model.Components.IsNull() {
		diags.Append(model.Components.ElementsAs(ctx, &debian.Components, false)...)
	}
	diags.Append(model.Packages.ElementsAs(ctx, &debian.Packages, false)...)
	if !model.Triggers.IsNull() {
		diags.Append(model.Triggers.ElementsAs(ctx, &debian.Triggers, false)...)
	}
	spec.Source = &debian
	return spec, diags
}

package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// componentKind is the kind of sharedos_component.
var componentKind = &releaseKind{
	kind: release.Component, publisher: Backend.Components, new: func() released { return new(componentModel) },
	inVM:    "an element of `components` of a VM",
	sources: `debian = { packages = [...] } or archive = { path = "files.tar.zst" }`,
	freeing: "Take it out of components of these VMs first, in an apply of its own, or destroy them. Terraform does " +
		"both in one apply, in this order, if the component has lifecycle { create_before_destroy = true } since an " +
		"earlier apply.",
	movingFirst: "To have its VMs move to the new component first, add lifecycle { create_before_destroy = true } to " +
		"the component.",
}

// componentModel is sharedos_component in config, plan and state.
type componentModel struct {
	releasedFields
	componentSystem
	componentAdds
}

// componentSystem is what the manifest of a component has, with that of the base release that it is built on. The
// resource and the data source share it.
type componentSystem struct {
	Base     types.String `tfsdk:"base"`
	BaseName types.String `tfsdk:"base_name"`
	Packages types.Map    `tfsdk:"packages"`
}

var _ released = (*componentModel)(nil)

func (*componentModel) kind() *releaseKind { return componentKind }

// sources implements released.
func (m *componentModel) sources() []sourceAttribute {
	return []sourceAttribute{&m.debianSource, &m.archiveSource, &m.directorySource, &m.ociSource}
}

// attributes implements released.
func (m *componentModel) attributes() map[string]schema.Attribute {
	attributes := releasedAttributes(m)
	attributes["base"] = schema.StringAttribute{
		Required: true,
		MarkdownDescription: "Id of the base release that the component is built on, such as `sharedos_base.debian.release`. A VM can " +
			"have the component only on exactly this release. When it changes, the component gets a new release, in place and in the same plan.",
		Validators: []validator.String{isRelease},
	}
	maps.Copy(attributes, componentSystemAttributes())
	maps.Copy(attributes, addsAttributes())
	return attributes
}

func componentSystemAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"base_name": computedText("Name of the base of `base`."),
		"packages": schema.MapAttribute{
			Computed: true, ElementType: types.StringType,
			MarkdownDescription: "Versions of the packages that the component adds to its base, by package name.",
		},
	}
}

// componentResource is sharedos_component: what is added to a base, in VMs that ask for it.
type componentResource struct{ releaseResource }

func newComponentResource() *componentResource {
	return &componentResource{releaseResource{kind: componentKind}}
}

var (
	_ resource.ResourceWithConfigure      = (*componentResource)(nil)
	_ resource.ResourceWithImportState    = (*componentResource)(nil)
	_ resource.ResourceWithValidateConfig = (*componentResource)(nil)
	_ resource.ResourceWithModifyPlan     = (*componentResource)(nil)
)

// Schema implements resource.Resource.
func (r *componentResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = r.schema(ctx,
		"A component: an optional part of an operating system, such as a database, that is added to a base in the "+
			"VMs that ask for it. It is stored as the difference to its base, once for all VMs that have it. When "+
			"its source or its base changes, the component gets a new release, in place. Deleting a component "+
			"deletes all its releases. A component that a VM uses is not deleted.")
}

// settled implements released.
func (m *componentModel) settled() bool { return !m.Base.IsUnknown() }

// sameBesides implements released.
func (m *componentModel) sameBesides(as released) bool {
	other, ok := as.(*componentModel)
	return ok && m.Base.Equal(other.Base)
}

// complete implements released.
func (m *componentModel) complete(spec *publish.Spec, opened source.Source) diag.Diagnostics {
	var err error
	if spec.BuiltOn, err = tree.ParseDigest(m.Base.ValueString()); err != nil {
		return failedAt(path.Root("base"), failure{do: "read the base of", object: objectOf(m), err: err})
	}
	if packages, ok := opened.(*debian.Source); ok {
		spec.Addition = debian.Addition{Source: packages}
	} else {
		spec.Addition = addition.Files{Source: opened}
	}
	return nil
}

// check implements released: the component is built on a release of a base.
func (m *componentModel) check(ctx context.Context, backend Backend) diag.Diagnostics {
	id, err := tree.ParseDigest(m.Base.ValueString())
	var found *release.Manifest
	if err == nil {
		found, err = findRelease(ctx, backend.Publisher(), id)
	}
	refuse := failure{do: "build", object: objectOf(m), err: err}
	switch {
	case errors.Is(err, store.ErrNotFound):
		refuse.err = fmt.Errorf("there is no base release %s, neither in the pool nor in what this plan publishes",
			m.Base.ValueString())
		refuse.next = "Nothing was changed. Use the attribute release of a sharedos_base, of this configuration or as a data source."
	case err == nil && found.Kind != release.Base:
		refuse.err = fmt.Errorf("base is release %d of %s %q, and a component is built on a release of a base",
			found.Sequence, found.Kind, found.Name)
		refuse.next = "Nothing was changed. Use the attribute release of a sharedos_base. A VM that is to have " +
			"several components lists all of them in its attribute components; each is built on the release of the " +
			"base."
	case err == nil:
		return nil
	}
	return failedAt(path.Root("base"), refuse)
}

// findRelease returns a release that is in the pool, or that this process has prepared; store.ErrNotFound if it is
// neither.
func findRelease(ctx context.Context, publisher publish.Interface, id tree.Digest) (*release.Manifest, error) {
	manifest, err := publisher.Get(ctx, id)
	if prepared := publisher.Offered(id); errors.Is(err, store.ErrNotFound) && prepared != nil {
		return prepared, nil // the apply of this plan publishes it
	}
	return manifest, err
}

// describe implements released. A manifest does not contain what the component adds, and the pool may not have the base
// release any more.
func (m *componentModel) describe(ctx context.Context, backend Backend, id tree.Digest, manifest *release.Manifest,
	_ chain) diag.Diagnostics {
	same := m.Release.ValueString() == id.String()
	if !same || m.Adds.IsUnknown() {
		m.Adds = types.ObjectNull(addsTypes)
	}
	diags := m.manifestFields.describe(ctx, id, manifest)
	m.Base = types.StringValue(manifest.BuiltOn.String())
	if same && !unset(m.BaseName) && !unset(m.Packages) {
		return diags
	}
	return append(diags, m.componentSystem.describe(ctx, backend, manifest)...)
}

// describe compares the manifest with that of the base release. Without that one, the values are null.
func (b *componentSystem) describe(ctx context.Context, backend Backend, manifest *release.Manifest) diag.Diagnostics {
	b.Base, b.BaseName, b.Packages = types.StringValue(manifest.BuiltOn.String()), types.StringNull(),
		types.MapNull(types.StringType)
	base, err := findRelease(ctx, backend.Publisher(), manifest.BuiltOn)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return failed(failure{do: "read the base of", object: componentKind.object(manifest.Name), err: err})
	}
	var diags diag.Diagnostics
	b.BaseName = types.StringValue(base.Name)
	b.Packages, diags = types.MapValueFrom(ctx, types.StringType, addedPackages(base, manifest))
	return diags
}

// addedPackages are the packages of a component that its base does not have in the same version. The manifest of a
// component has those of the base, too.
func addedPackages(base, component *release.Manifest) map[string]string {
	had := make(map[string]string, len(base.Packages))
	for _, p := range base.Packages {
		had[p.Name] = p.Version
	}
	added := map[string]string{}
	for _, p := range component.Packages {
		if version, there := had[p.Name]; !there || version != p.Version {
			added[p.Name] = p.Version
		}
	}
	return added
}

// take implements released.
func (m *componentModel) take(ctx context.Context, backend Backend, prepared *publish.Prepared, state released,
	chain chain) diag.Diagnostics {
	m.Adds = types.ObjectNull(addsTypes)
	if before, ok := state.(*componentModel); ok {
		m.Release, m.Adds = before.Release, before.Adds
		m.BaseName, m.Packages = before.BaseName, before.Packages
	}
	diags := m.describe(ctx, backend, prepared.ID, prepared.Manifest, chain)
	if prepared.Change == nil {
		return diags
	}
	return append(diags, m.componentAdds.describe(ctx, prepared.Change)...)
}

// differences implements released.
func (m *componentModel) differences(*publish.Prepared) []string { return nil }

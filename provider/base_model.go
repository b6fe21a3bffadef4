package provider

import (
	"context"
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// baseKind is the kind of sharedos_base.
var baseKind = &releaseKind{
	kind: release.Base, publisher: Backend.Publisher, new: func() released { return new(baseModel) },
	inVM:        "the value for `base` of a VM",
	sources:     `debian = { suite = "trixie", packages = [...] } or archive = { path = "rootfs.tar.zst" }`,
	freeing:     "Destroy them first, or move them to another base. " + movingBaseFirst,
	movingFirst: movingBaseFirst,
}

// movingBaseFirst says how the VMs of a base come to another base before it is deleted.
const movingBaseFirst = "To move its VMs to the new base first, add lifecycle { create_before_destroy = true } to " +
	"the base, and set refresh.strategy of its VMs to \"next_boot\". Once the VMs have been powered off and started, " +
	"apply again to delete the old base."

// baseModel is sharedos_base in config, plan and state.
type baseModel struct {
	releasedFields

	PinAccounts types.Bool `tfsdk:"pin_accounts"`

	diskImageSource

	baseSystem
	baseChange
	baseChain
}

var _ released = (*baseModel)(nil)

func (*baseModel) kind() *releaseKind { return baseKind }

// sources implements released.
func (m *baseModel) sources() []sourceAttribute {
	return []sourceAttribute{&m.debianSource, &m.archiveSource, &m.directorySource, &m.ociSource, &m.diskImageSource}
}

// attributes implements released.
func (m *baseModel) attributes() map[string]schema.Attribute {
	attributes := releasedAttributes(m)
	attributes["pin_accounts"] = schema.BoolAttribute{
		Optional: true,
		MarkdownDescription: "Gives users and groups the ids that they had in the previous release: in " +
			"`/etc/passwd`, `/etc/group`, file owners and access control lists. A new account whose id is taken " +
			"gets a free one. Default: `false`, and a release in which ids of accounts change is refused, " +
			"because files that VMs keep in `/var` and `/home` would change owner.",
	}
	for _, group := range []map[string]schema.Attribute{systemAttributes(), changeAttributes(), chainAttributes()} {
		for name, attribute := range group {
			attributes[name] = attribute
		}
	}
	return attributes
}

// newBaseResource returns sharedos_base: a named operating system with a history of releases.
func newBaseResource() *baseResource { return &baseResource{releaseResource{kind: baseKind}} }

// baseResource is sharedos_base.
type baseResource struct{ releaseResource }

// Schema implements resource.Resource.
func (r *baseResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = r.schema(ctx, "A base: a named operating system. The pool stores it once, and every VM that runs it "+
		"shares it. When its source changes, the base gets a new release, in place; only the differences are "+
		"stored. Deleting a base deletes all its releases. A base that a VM uses is not deleted.")
}

// settled implements released.
func (m *baseModel) settled() bool { return !m.PinAccounts.IsUnknown() }

// sameBesides implements released. A release that exists is not made again because pin_accounts has changed.
func (m *baseModel) sameBesides(released) bool { return true }

// complete implements released.
func (m *baseModel) complete(spec *publish.Spec, opened source.Source) diag.Diagnostics {
	spec.Source, spec.PinAccounts = opened, m.PinAccounts.ValueBool()
	return nil
}

// check implements released.
func (m *baseModel) check(context.Context, Backend) diag.Diagnostics { return nil }

// describe implements released. A manifest does not contain the change.
func (m *baseModel) describe(ctx context.Context, _ Backend, id tree.Digest, manifest *release.Manifest,
	chain chain) diag.Diagnostics {
	if m.Release.ValueString() != id.String() || m.Change.IsUnknown() {
		m.Change = types.ObjectNull(changeTypes)
	}
	m.baseChain.describe(chain, len(manifest.Layers))
	m.baseSystem.describe(manifest)
	return m.manifestFields.describe(ctx, id, manifest)
}

// take implements released. A release that equals the newest one has no change of its own.
func (m *baseModel) take(ctx context.Context, backend Backend, prepared *publish.Prepared, state released,
	chain chain) diag.Diagnostics {
	m.Change = types.ObjectNull(changeTypes)
	if before, ok := state.(*baseModel); ok {
		m.Release, m.Change = before.Release, before.Change
	}
	diags := m.describe(ctx, backend, prepared.ID, prepared.Manifest, chain)
	if prepared.Unchanged || prepared.Change == nil {
		return diags
	}
	return append(diags, m.baseChange.describe(ctx, prepared.Change, prepared.Manifest)...)
}

// differences implements released.
func (m *baseModel) differences(prepared *publish.Prepared) []string {
	if kernel := prepared.Manifest.Kernel; kernel != nil && !unset(m.Kernel) &&
		kernel.Release != m.Kernel.ValueString() {
		return []string{fmt.Sprintf("kernel %s instead of %s", kernel.Release, m.Kernel.ValueString())}
	}
	return nil
}

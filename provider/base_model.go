package provider

import (
	"context"
	"sync"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// baseModel is sharedos_base in config, plan and state: its sources, and groups of other attributes.
type baseModel struct {
	Name        types.String `tfsdk:"name"`
	PinAccounts types.Bool   `tfsdk:"pin_accounts"`
	Limits      types.Object `tfsdk:"limits"`

	SharedSecrets types.Set `tfsdk:"shared_secrets"`

	baseDebian
	baseArchive
	baseDirectory
	baseOCI
	baseDiskImage

	baseRelease
	baseChange
	baseChain
	baseHistory

	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

// renaming describes renamed.
const renaming = "Another name is another base."

// renamed warns that a base cannot be deleted before its VMs have moved to another one.
func renamed(_ context.Context, req planmodifier.StringRequest, resp *stringplanmodifier.RequiresReplaceIfFuncResponse) {
	resp.RequiresReplace = true
	resp.Diagnostics.AddWarning("Another name is another base: "+baseName(req.StateValue.ValueString())+" is deleted", "Terraform deletes "+
		"it first, which is refused while VMs use it.\n\n"+movingFirst)
}

// movingFirst says how the VMs of a base come to another base before it is deleted.
const movingFirst = "To move its VMs to the new base first, add lifecycle { create_before_destroy = true } to the base, and set " +
	"refresh.strategy of its VMs to \"next_boot\". Once the VMs have been powered off and started, apply again to delete the old base."

func baseAttributes() map[string]schema.Attribute {
	attributes := map[string]schema.Attribute{
		"name": schema.StringAttribute{
			Required: true,
			MarkdownDescription: "Name of the base in the pool: lower-case letters, digits, dots, underscores and " +
				"hyphens. The name identifies the base: another name is another base.",
			Validators:    []validator.String{isName},
			PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(renamed, renaming, renaming)},
		},
		"pin_accounts": schema.BoolAttribute{
			Optional: true,
			MarkdownDescription: "Gives users and groups the ids that they had in the previous release: in " +
				"`/etc/passwd`, `/etc/group`, file owners and access control lists. A new account whose id is taken " +
				"gets a free one. Default: `false`, and a release in which ids of accounts change is refused, " +
				"because files that VMs keep in `/var` and `/home` would change owner.",
		},
		"shared_secrets": schema.SetAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Absolute paths of files that all VMs share although they look like secrets. Without " +
				"this, private keys, passwords and random seeds that a package's script makes while the base is built " +
				"are left out of it: every VM would have the same. Where the package has a way, each VM makes its own " +
				"at boot; the others are listed in a warning.",
			Validators: []validator.Set{setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(isAbsolutePath)},
		},
		"limits":        limitsAttribute(),
		"source_digest": sourceDigestAttribute(),
	}
	for _, s := range new(baseModel).sources() {
		attributes[s.name()] = s.attribute()
	}
	for _, group := range []map[string]schema.Attribute{releaseAttributes(), changeAttributes(), chainAttributes(), historyAttributes()} {
		for name, attribute := range group {
			attributes[name] = attribute
		}
	}
	return attributes
}

// Schema implements resource.Resource.
func (r *baseResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		Version: stateVersion,
		MarkdownDescription: "A base: a named operating system. The pool stores it once, and every VM that runs it " +
			"shares it. When its source changes, the base gets a new release, in place; only the differences are " +
			"stored. Deleting a base deletes all its releases. A base that a VM uses is not deleted.",
		Attributes: baseAttributes(),
	}
	resp.Schema.Attributes["timeouts"] = timeoutsAttribute(ctx, baseWriteTimeout)
}

// baseNames are the names of the attributes.
var baseNames = sync.OnceValue(func() attributeNames { return namesOf(baseAttributes()) })

// forget makes all computed attributes unknown.
func (m *baseModel) forget(ctx context.Context) error { return forgetValues(ctx, m, baseAttributes()) }

// carry takes the attributes that depend on the source from an earlier state.
func (m *baseModel) carry(from *baseModel) { copyValues(m, from, baseNames().computed) }

// describe takes the attributes that depend on the source from a manifest. The change stays as it was if the release is
// the one that the model had already, because a manifest does not contain it.
func (m *baseModel) describe(ctx context.Context, id tree.Digest, manifest *release.Manifest, chain chain) diag.Diagnostics {
	if m.Release.ValueString() != id.String() || m.Change.IsUnknown() {
		m.Change = types.ObjectNull(changeTypes)
	}
	m.baseChain.describe(chain, len(manifest.Layers))
	return m.baseRelease.describe(ctx, id, manifest)
}

// take describes a prepared release. A release that equals the newest one has no change of its own.
func (m *baseModel) take(ctx context.Context, prepared *publish.Prepared, state *baseModel, chain chain) diag.Diagnostics {
	m.Change = types.ObjectNull(changeTypes)
	if state != nil {
		m.Release, m.Change = state.Release, state.Change
	}
	diags := m.describe(ctx, prepared.ID, prepared.Manifest, chain)
	diags = append(diags, secretsLeftOut(m.Name.ValueString(), prepared.Secrets)...)
	diags = append(diags, corrections(m.Name.ValueString(), prepared.Notes)...)
	if prepared.Unchanged || prepared.Change == nil {
		return diags
	}
	return append(diags, m.baseChange.describe(ctx, prepared.Change, prepared.Manifest)...)
}

package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// releaseKind is a kind of objects that have releases, each with a resource and a data source of its own: bases and
// components.
type releaseKind struct {
	// kind is the word for an object, in messages and at the end of the resource's name.
	kind release.Kind
	// publisher publishes releases of this kind.
	publisher func(Backend) publish.Interface
	// new returns an empty model.
	new func() released
	// inVM says where a VM names a release.
	inVM string
	// sources has examples of sources, for the error that none is set.
	sources string
	// freeing says how VMs come to not use an object any more, and movingFirst how they come to another object of the
	// kind before it is deleted.
	freeing, movingFirst string
}

// object names an object of the kind in diagnostics.
func (k *releaseKind) object(name string) string { return fmt.Sprintf("%s %q", k.kind, name) }

// title is the word for an object at the beginning of a sentence.
func (k *releaseKind) title() string {
	return strings.ToUpper(string(k.kind[:1])) + string(k.kind[1:])
}

// released is sharedos_base or sharedos_component in config, plan and state. The functions of releaseResource work on
// both.
type released interface {
	kind() *releaseKind
	// fields are the attributes that both have.
	fields() *releasedFields
	// attributes are all attributes but timeouts.
	attributes() map[string]schema.Attribute
	// sources are the attributes of which one says what a release is made from.
	sources() []sourceAttribute
	// settled reports whether everything else that a release is made from is known, and sameBesides whether it is the
	// same.
	settled() bool
	sameBesides(as released) bool
	// complete sets in a spec what is made from an open source.
	complete(spec *publish.Spec, opened source.Source) diag.Diagnostics
	// check refuses what a release cannot be made from. The source need not be known.
	check(ctx context.Context, backend Backend) diag.Diagnostics
	// describe takes the computed attributes from a manifest. What a manifest does not have stays as it is if the
	// release is the one that the model had already.
	describe(ctx context.Context, backend Backend, id tree.Digest, manifest *release.Manifest,
		chain chain) diag.Diagnostics
	// take describes a prepared release. state is nil for an object that is new.
	take(ctx context.Context, backend Backend, prepared *publish.Prepared, state released, chain chain) diag.Diagnostics
	// differences says in what a prepared release differs from the planned one.
	differences(prepared *publish.Prepared) []string
}

// releasedFields are the attributes that sharedos_base and sharedos_component have in common.
type releasedFields struct {
	Name          types.String `tfsdk:"name"`
	Limits        types.Object `tfsdk:"limits"`
	SharedSecrets types.Set    `tfsdk:"shared_secrets"`

	debianSource
	archiveSource
	directorySource
	ociSource

	manifestFields
	retention

	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

func (m *releasedFields) fields() *releasedFields { return m }

// objectOf names an object in diagnostics.
func objectOf(m released) string { return m.kind().object(m.fields().Name.ValueString()) }

// releasedAttributes are the attributes that both have, with those of the sources of the model.
func releasedAttributes(m released) map[string]schema.Attribute {
	kind := m.kind()
	renaming := "Another name is another " + string(kind.kind) + "."
	attributes := map[string]schema.Attribute{
		"name": schema.StringAttribute{
			Required: true,
			MarkdownDescription: fmt.Sprintf(
				"Name of the %[1]s in the pool: lower-case letters, digits, dots, underscores and "+
					"hyphens. The name identifies the %[1]s: another name is another %[1]s.", kind.kind),
			Validators: []validator.String{isName},
			PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplaceIf(kind.renamed, renaming,
				renaming)},
		},
		"shared_secrets": schema.SetAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: fmt.Sprintf(
				"Absolute paths of files that all VMs share although they look like secrets. Without this, private "+
					"keys, passwords and random seeds that a package's script makes while the %s is built are left "+
					"out of it: every VM would have the same. Where the package has a way, each VM makes its own at "+
					"boot; the others are listed in a warning.", kind.kind),
			Validators: []validator.Set{setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(isAbsolutePath)},
		},
		"limits":        limitsAttribute(),
		"source_digest": sourceDigestAttribute(),
	}
	for _, s := range m.sources() {
		attributes[s.name()] = s.attribute(kind.kind)
	}
	for _, group := range []map[string]schema.Attribute{manifestAttributes(kind), retentionAttributes(kind)} {
		for name, attribute := range group {
			attributes[name] = attribute
		}
	}
	return attributes
}

// renamed warns that an object cannot be deleted before its VMs have moved to another one.
func (k *releaseKind) renamed(_ context.Context, req planmodifier.StringRequest,
	resp *stringplanmodifier.RequiresReplaceIfFuncResponse) {
	resp.RequiresReplace = true
	resp.Diagnostics.AddWarning(fmt.Sprintf("Another name is another %s: %s is deleted", k.kind,
		k.object(req.StateValue.ValueString())), "Terraform deletes "+
		"it first, which is refused while VMs use it.\n\n"+k.movingFirst)
}

// forget makes all computed attributes unknown.
func forget(ctx context.Context, m released) error { return forgetValues(ctx, m, m.attributes()) }

// carry takes the attributes that depend on the source from an earlier state.
func carry(m, from released) { copyValues(m, from, namesOf(m.attributes()).computed) }

// take describes a prepared release, with what a user has to know of how it was made.
func take(ctx context.Context, m released, backend Backend, prepared *publish.Prepared, state released,
	chain chain) diag.Diagnostics {
	diags := m.take(ctx, backend, prepared, state, chain)
	diags = append(diags, secretsLeftOut(m, prepared.Secrets)...)
	return append(diags, corrections(m, prepared.Notes)...)
}

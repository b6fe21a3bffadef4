package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// sourceAttribute is one of the attributes that say what the releases of a base or a component are made from. Exactly
// one of them is set. It is a struct with the value of the attribute, and everything that is particular to the
// attribute is in the methods of this struct.
type sourceAttribute interface {
	// name is the name of the attribute, and value what is configured.
	name() string
	value() types.Object
	// attribute is the schema in the resource of a kind.
	attribute(of release.Kind) schema.SingleNestedAttribute
	// at is the attribute to point at when the source cannot be read.
	at() path.Path
	// validate calls refuse for nested attributes that contradict each other. Values may be unknown.
	validate(ctx context.Context, refuse refuse) diag.Diagnostics
	// open returns the source to read. The value must be known throughout.
	open(ctx context.Context, cache string, limits source.Limits) (source.Source, diag.Diagnostics)
}

// refuse reports an attribute that contradicts others: why, and what to do.
type refuse func(at path.Path, why, next string)

// chosen returns the source that is set; the first of all if none is, as in the state of an object that was imported.
func chosen(m released) sourceAttribute {
	for _, s := range m.sources() {
		if !s.value().IsNull() {
			return s
		}
	}
	return m.sources()[0]
}

// hasSource reports whether a source is set. An object without one keeps the releases that it has,
// as one that was imported.
func hasSource(m released) bool {
	return slices.ContainsFunc(sourceValues(m), func(value types.Object) bool { return !value.IsNull() })
}

// needsSource is the error that an object cannot be made, or made anew, because no source is set.
func needsSource(m released, do, why string) diag.Diagnostics {
	var names []string
	for _, s := range m.sources() {
		names = append(names, s.name())
	}
	return failedAt(path.Root(names[0]), failure{
		do: do, object: objectOf(m), err: fmt.Errorf("%s, and none of %s is set", why, strings.Join(names, ", ")),
		next: "Set one of them, such as " + m.kind().sources +
			". One that was imported needs none, and keeps its releases.",
	})
}

// sourceKnown reports whether no part of the source is unknown.
func sourceKnown(ctx context.Context, m released) (bool, error) {
	for _, value := range append(sourceValues(m), m.fields().Limits) {
		converted, err := value.ToTerraformValue(ctx)
		if err != nil || !converted.IsFullyKnown() {
			return false, err
		}
	}
	return true, nil
}

// sameSource reports whether a release of both is made from the same, as far as the configuration says.
func sameSource(m, as released) bool {
	if !m.fields().SharedSecrets.Equal(as.fields().SharedSecrets) || !m.sameBesides(as) {
		return false
	}
	others := sourceValues(as)
	for i, value := range sourceValues(m) {
		if !value.Equal(others[i]) {
			return false
		}
	}
	return true
}

func sourceValues(m released) []types.Object {
	var values []types.Object
	for _, s := range m.sources() {
		values = append(values, s.value())
	}
	return values
}

// input is what a release is made from.
type input struct {
	publish.Spec
	// opened is the source that the user has configured. The source or the addition of the spec is made from it.
	opened source.Source
}

// inputOf returns what a Publisher is to publish. The source must be known.
func inputOf(ctx context.Context, m released, cache string) (input, diag.Diagnostics) {
	fields := m.fields()
	limits, diags := fields.limits(ctx)
	opened, d := chosen(m).open(ctx, cache, limits)
	diags.Append(d...)
	var shared []string
	if !fields.SharedSecrets.IsNull() {
		diags.Append(fields.SharedSecrets.ElementsAs(ctx, &shared, false)...)
	}
	slices.Sort(shared)
	in := input{publish.Spec{Name: fields.Name.ValueString(), SharedSecrets: shared}, opened}
	return in, append(diags, m.complete(&in.Spec, opened)...)
}

// ValidateConfig implements resource.ResourceWithValidateConfig: no more than one source is set, and it
// is complete. That a new object has one is for ModifyPlan to check: one that was imported needs none.
func (r *releaseResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest,
	resp *resource.ValidateConfigResponse) {
	config := r.kind.new()
	if resp.Diagnostics.Append(req.Config.Get(ctx, config)...); resp.Diagnostics.HasError() {
		return
	}
	var set []string
	for _, s := range config.sources() {
		if s.value().IsUnknown() {
			return
		}
		if !s.value().IsNull() {
			set = append(set, s.name())
		}
	}
	object := objectOf(config)
	switch len(set) {
	case 0:
	case 1:
		resp.Diagnostics.Append(chosen(config).validate(ctx, func(at path.Path, why, next string) {
			resp.Diagnostics.Append(failedAt(at,
				failure{do: "read the source of", object: object, err: errors.New(why), next: next})...)
		})...)
	default:
		resp.Diagnostics.Append(failedAt(path.Root(set[1]), failure{
			do: "choose the source of", object: object, err: fmt.Errorf("%s are set", strings.Join(set, " and ")),
			next: fmt.Sprintf("Keep one of them: a %s is read from exactly one source.", r.kind.kind),
		})...)
	}
}

// read reads the value of a source into its model.
func read(ctx context.Context, value types.Object, model any) diag.Diagnostics {
	return value.As(ctx, model, basetypes.ObjectAsOptions{})
}

// oneSource ends the description of each source.
const oneSource = " Exactly one source is set; one that was imported may have none, and keeps its releases."

// madeFrom describes a source: what the first sentence says, in a base or in a component, and what holds for both.
func madeFrom(of release.Kind, base, component, both string) string {
	first := base
	if of == release.Component {
		first = component
	}
	return first + both + oneSource
}

// fileModel says where a file is: on this machine, or elsewhere.
type fileModel struct {
	Path   types.String `tfsdk:"path"`
	URL    types.String `tfsdk:"url"`
	SHA256 types.String `tfsdk:"sha256"`
}

// fileAttributes is the schema of a fileModel.
func fileAttributes(what string) map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"path": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "Path on this machine of " + what + ". Exactly one of `path` and `url` is set.",
			Validators:          []validator.String{isLocalPath},
		},
		"url": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "HTTP or HTTPS URL of " + what + ". It is downloaded once; an interrupted download " +
				"is resumed.",
			Validators: []validator.String{isDownload},
		},
		"sha256": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "SHA-256 of the file at `url`, as 64 hexadecimal digits. Required with `url`: the " +
				"file is not used before it has been checked.",
			Validators: []validator.String{isSHA256},
		},
	}
}

func (m *fileModel) validate(at path.Path, refuse refuse) {
	switch {
	case m.Path.IsUnknown() || m.URL.IsUnknown() || m.SHA256.IsUnknown():
	case m.Path.IsNull() == m.URL.IsNull():
		refuse(at, "exactly one of path and url must be set", "Set path to a file on this machine, or url and sha256 "+
			"for a file elsewhere.")
	case !m.URL.IsNull() && m.SHA256.IsNull():
		refuse(at.AtName("url"), "sha256 is not set",
			"Set sha256 to the digest that the publisher of the file gives for it. Without it, the content behind "+
				"the URL cannot be checked.")
	case m.URL.IsNull() && !m.SHA256.IsNull():
		refuse(at.AtName("sha256"), "sha256 is set, and url is not",
			"Remove sha256: it is for files that are downloaded.")
	}
}

// download is what to download; nil for a file on this machine.
func (m *fileModel) download(at path.Path, diags *diag.Diagnostics) *fetch.Download {
	if m.URL.IsNull() {
		return nil
	}
	digest, err := tree.ParseDigest("sha256:" + m.SHA256.ValueString())
	if err != nil {
		diags.Append(failedAt(at.AtName("sha256"), failure{do: "read", object: "sha256", err: err})...)
	}
	return &fetch.Download{URL: m.URL.ValueString(), Digest: digest}
}

// limitsModel is the attribute limits.
type limitsModel struct {
	Content sizeValue   `tfsdk:"content"`
	Entries types.Int64 `tfsdk:"entries"`
}

func limitsAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Limits on the content of a source. They stop a source that is not an operating system, " +
			"and an archive that unpacks to far more than its size suggests.",
		Attributes: map[string]schema.Attribute{
			"content": schema.StringAttribute{
				Optional: true, CustomType: sizeType{},
				MarkdownDescription: "Bytes of all files together, such as `32GiB`. Default: `" +
					formatSize(source.DefaultContentLimit) + "`.",
			},
			"entries": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: fmt.Sprintf("Number of files and directories. Default: `%d`.",
					source.DefaultEntriesLimit),
				Validators: []validator.Int64{int64validator.AtLeast(1)},
			},
		},
	}
}

func (m *releasedFields) limits(ctx context.Context) (source.Limits, diag.Diagnostics) {
	if m.Limits.IsNull() {
		return source.Limits{}, nil
	}
	var model limitsModel
	diags := read(ctx, m.Limits, &model)
	return source.Limits{Content: model.Content.Bytes(), Entries: int(model.Entries.ValueInt64())}, diags
}

func triggersAttribute(effect string) schema.Attribute {
	return schema.MapAttribute{
		Optional: true, ElementType: types.StringType,
		MarkdownDescription: "Arbitrary texts, such as a date. " + effect + " whenever one of them changes.",
	}
}

// localFingerprint identifies those inputs of a source that every plan reads because they are on this machine. It is
// empty if the source has no such inputs and can only be read over a network.
func localFingerprint(ctx context.Context, src source.Source) (string, error) {
	switch s := src.(type) {
	case *debian.Source:
		return s.LocalFingerprint(ctx)
	case *oci.Source:
		if s.Layout == "" {
			return "", nil
		}
	}
	return src.Fingerprint(ctx)
}

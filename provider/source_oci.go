package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
)

// ociSource is the source oci, and the digest that its tag was resolved to.
type ociSource struct {
	OCI          types.Object `tfsdk:"oci"`
	SourceDigest types.String `tfsdk:"source_digest"`
}

var _ sourceAttribute = (*ociSource)(nil)

// ociModel is the value of the source oci.
type ociModel struct {
	Reference types.String `tfsdk:"reference"`
	Layout    types.String `tfsdk:"layout"`
	PlainHTTP types.Bool   `tfsdk:"plain_http"`
	Triggers  types.Map    `tfsdk:"triggers"`
}

func (*ociSource) name() string          { return "oci" }
func (s *ociSource) value() types.Object { return s.OCI }
func (*ociSource) at() path.Path         { return path.Root("oci") }

func (*ociSource) attribute(of release.Kind) schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: madeFrom(of,
			"Makes the base from an OCI image in a registry, or in a directory in the OCI image "+
				"layout. ", "Lays the files of an OCI image over the base: of one in a registry, or in a directory in the OCI image layout. ",
			"From an image index, the image for Linux on this machine's architecture is taken. Credentials "+
				"come from Docker's configuration and its credential helpers."),
		Attributes: map[string]schema.Attribute{
			"reference": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Reference with its registry and a tag or digest, such as " +
					"`registry.example.com/os/debian:13`. A tag is resolved when the attribute is new or a trigger " +
					"changes, and pinned as `source_digest`. With `layout`, it is the name or digest of an image in " +
					"the directory; the default is the only image in it.",
				Validators: []validator.String{isReference},
			},
			"layout": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Path of a directory in the OCI image layout, of a tar file of one (`oci-archive`), " +
					"or of a file that `docker save` wrote, to use instead of a registry. Tar files may be compressed. A " +
					"plan reads its index: another image under the same name is another release.",
				Validators: []validator.String{isLocalPath},
			},
			"plain_http": schema.BoolAttribute{
				Optional: true,
				MarkdownDescription: "Whether to access the registry without TLS. Default: only if the registry is " +
					"on this machine's loopback.",
			},
			"triggers": triggersAttribute("A tag is resolved again"),
		},
	}
}

func sourceDigestAttribute() schema.Attribute {
	return computedText("Digest that the tag in `oci.reference` was resolved to, of the form `sha256:<64 hex>`. The " +
		"newest release is made from this image, even if the tag has moved since. Null for other sources.")
}

func (s *ociSource) validate(ctx context.Context, refuse refuse) diag.Diagnostics {
	var model ociModel
	diags := read(ctx, s.OCI, &model)
	if !diags.HasError() && model.Reference.IsNull() && model.Layout.IsNull() {
		refuse(path.Root("oci"), "neither reference nor layout is set",
			`Set reference to an image in a registry, such as "registry.example.com/os/debian:13", or layout to a directory.`)
	}
	return diags
}

func (s *ociSource) open(ctx context.Context, cache string, limits source.Limits) (source.Source, diag.Diagnostics) {
	var model ociModel
	diags := read(ctx, s.OCI, &model)
	return &oci.Source{
		Reference: model.Reference.ValueString(), Layout: model.Layout.ValueString(),
		Digest:    s.SourceDigest.ValueString(),
		PlainHTTP: model.PlainHTTP.ValueBoolPointer(), CacheDir: cache, Limits: limits,
	}, diags
}

// pin resolves the tag of an image in a registry to a digest, unless that was done before, so that plan and apply read
// the same image. Other sources have no digest.
func (s *ociSource) pin(ctx context.Context, opened source.Source) error {
	image, ok := opened.(*oci.Source)
	if !ok || image.Layout != "" {
		s.SourceDigest = types.StringNull()
		return nil
	}
	if !s.SourceDigest.IsUnknown() {
		return nil
	}
	digest, err := image.Pin(ctx)
	if err != nil {
		return err
	}
	s.SourceDigest, image.Digest = types.StringValue(digest), digest
	return nil
}

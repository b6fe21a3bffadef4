package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"
)

// ValidateConfig implements resource.ResourceWithValidateConfig: a base has exactly one source, and that is whole.
func (r *baseResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var config baseModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	if resp.Diagnostics.HasError() {
		return
	}
	var set, names []string
	for _, s := range config.sources() {
		if s.object.IsUnknown() {
			return
		}
		if !s.object.IsNull() {
			set = append(set, s.name)
		}
		names = append(names, s.name)
	}
	object := baseName(config.Name.ValueString())
	switch {
	case len(set) > 1:
		resp.Diagnostics.Append(failedAt(path.Root(set[1]), failure{
			do: "choose the source of", object: object, err: fmt.Errorf("%s are set", strings.Join(set, " and ")),
			next: "Keep one of them: a base is read from exactly one source.",
		})...)
	case len(set) == 0:
		resp.Diagnostics.Append(failedAt(path.Root("debian"), failure{
			do: "choose the source of", object: object, err: fmt.Errorf("none of %s is set", strings.Join(names, ", ")),
			next: `Set one of them, such as debian = { suite = "trixie", packages = [...] } or archive = { path = "rootfs.tar.zst" }.`,
		})...)
	default:
		resp.Diagnostics.Append(config.validateSource(ctx, object)...)
	}
}

// validateSource reports attributes of a source that do not go together.
func (m *baseModel) validateSource(ctx context.Context, object string) (diags diag.Diagnostics) {
	refuse := func(at path.Path, text, next string) {
		diags.Append(failedAt(at, failure{do: "read the source of", object: object, err: errors.New(text), next: next})...)
	}
	file := func(name string, local, url, sha256 types.String) {
		switch at := path.Root(name); {
		case local.IsUnknown() || url.IsUnknown() || sha256.IsUnknown():
		case local.IsNull() == url.IsNull():
			refuse(at, "exactly one of path and url is to be set", "Set path to a file on this machine, or url and sha256 to one elsewhere.")
		case !url.IsNull() && sha256.IsNull():
			refuse(at.AtName("url"), "sha256 is not set", "Set sha256 to the digest that whoever made the file published for it: without it, nobody knows what the URL brings.")
		case url.IsNull() && !sha256.IsNull():
			refuse(at.AtName("sha256"), "sha256 is set, and url is not", "Remove sha256: a file on this machine is what it is.")
		}
	}
	switch {
	case !m.Archive.IsNull():
		var model archiveModel
		if diags.Append(m.Archive.As(ctx, &model, basetypes.ObjectAsOptions{})...); !diags.HasError() {
			file("archive", model.Path, model.URL, model.SHA256)
		}
	case !m.DiskImage.IsNull():
		var model diskImageModel
		if diags.Append(m.DiskImage.As(ctx, &model, basetypes.ObjectAsOptions{})...); !diags.HasError() {
			file("disk_image", model.Path, model.URL, model.SHA256)
		}
	case !m.Directory.IsNull():
		var model directoryConfig
		if diags.Append(m.Directory.As(ctx, &model, basetypes.ObjectAsOptions{})...); diags.HasError() {
			return diags
		}
		if model.Owner.ValueString() == ownerRoot && !(model.UIDMap.IsNull() && model.GIDMap.IsNull()) {
			refuse(path.Root("directory").AtName("owner"), `owner is "root" and there is a map`,
				"Remove either: with a map, each file is whose the map says.")
		}
	case !m.OCI.IsNull():
		var model ociModel
		if diags.Append(m.OCI.As(ctx, &model, basetypes.ObjectAsOptions{})...); diags.HasError() {
			return diags
		}
		if model.Reference.IsNull() && model.Layout.IsNull() {
			refuse(path.Root("oci"), "neither reference nor layout is set",
				`Set reference to an image in a registry, such as "registry.example.com/os/debian:13", or layout to a directory.`)
		}
	}
	return diags
}

package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/diskimage"
)

// archiveSource is the source archive, and diskImageSource the source disk_image of a base: both are one file.
type (
	archiveSource struct {
		Archive types.Object `tfsdk:"archive"`
	}
	diskImageSource struct {
		DiskImage types.Object `tfsdk:"disk_image"`
	}
)

var (
	_ sourceAttribute = (*archiveSource)(nil)
	_ sourceAttribute = (*diskImageSource)(nil)
)

func (*archiveSource) name() string          { return "archive" }
func (s *archiveSource) value() types.Object { return s.Archive }
func (*archiveSource) at() path.Path         { return path.Root("archive") }

func (*archiveSource) attribute(of release.Kind) schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: madeFrom(of, "Makes the base from an archive of a root file system. ",
			"Lays the files of an archive over the base. ",
			"A plan reads the archive: other content under the same path is another release."),
		Attributes: fileAttributes("a tar archive, plain or compressed with gzip, zstd, xz or bzip2"),
	}
}

func (s *archiveSource) validate(ctx context.Context, refuse refuse) diag.Diagnostics {
	var model fileModel
	diags := read(ctx, s.Archive, &model)
	if !diags.HasError() {
		model.validate(s.at(), refuse)
	}
	return diags
}

func (s *archiveSource) open(ctx context.Context, cache string,
	limits source.Limits) (source.Source, diag.Diagnostics) {
	var model fileModel
	diags := read(ctx, s.Archive, &model)
	return archive.Source{
		Path: model.Path.ValueString(), Download: model.download(s.at(), &diags), CacheDir: cache, Limits: limits,
	}, diags
}

// diskImageModel is the value of the source disk_image.
type diskImageModel struct {
	fileModel

	Partition types.Int64 `tfsdk:"partition"`
}

func (*diskImageSource) name() string          { return "disk_image" }
func (s *diskImageSource) value() types.Object { return s.DiskImage }
func (*diskImageSource) at() path.Path         { return path.Root("disk_image") }

func (*diskImageSource) attribute(release.Kind) schema.SingleNestedAttribute {
	attributes := fileAttributes("the image, raw or qcow2")
	attributes["partition"] = schema.Int64Attribute{
		Optional: true,
		MarkdownDescription: "Number of the partition with the root file system. Default: the partition whose GPT " +
			"type is the root partition of this machine's architecture; otherwise the only partition of the generic " +
			"Linux type; otherwise the whole disk if it has no partition table.",
		Validators: []validator.Int64{int64validator.AtLeast(1)},
	}
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Makes the base from a disk image, such as a cloud image. A plan reads the image: other " +
			"content under the same path is another release. The kernel of this machine mounts the file system in " +
			"the image read-only, which requires root and a loop device. A crafted file system can attack the " +
			"kernel, so use only images from publishers that you would let run code as root." + oneSource,
		Attributes: attributes,
	}
}

func (s *diskImageSource) validate(ctx context.Context, refuse refuse) diag.Diagnostics {
	var model diskImageModel
	diags := read(ctx, s.DiskImage, &model)
	if !diags.HasError() {
		model.validate(s.at(), refuse)
	}
	return diags
}

func (s *diskImageSource) open(ctx context.Context, cache string,
	limits source.Limits) (source.Source, diag.Diagnostics) {
	var model diskImageModel
	diags := read(ctx, s.DiskImage, &model)
	return diskimage.Source{
		Path: model.Path.ValueString(), Download: model.download(s.at(), &diags),
		Partition: int(model.Partition.ValueInt64()), CacheDir: cache, Limits: limits,
	}, diags
}

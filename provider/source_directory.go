package provider

import (
	"context"
	"math"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
)

// directorySource is the source directory.
type directorySource struct {
	Directory types.Object `tfsdk:"directory"`
}

var _ sourceAttribute = (*directorySource)(nil)

// directoryModel is the value of the source directory.
type directoryModel struct {
	Path   types.String `tfsdk:"path"`
	Owner  types.String `tfsdk:"owner"`
	UIDMap types.List   `tfsdk:"uid_map"`
	GIDMap types.List   `tfsdk:"gid_map"`
}

// idRangeModel is one range of uid_map or gid_map.
type idRangeModel struct {
	OnDisk int64 `tfsdk:"on_disk"`
	InTree int64 `tfsdk:"in_tree"`
	Count  int64 `tfsdk:"count"`
}

// Values of directory.owner.
const (
	ownerKeep = "keep"
	ownerRoot = "root"
)

func (*directorySource) name() string          { return "directory" }
func (s *directorySource) value() types.Object { return s.Directory }
func (*directorySource) at() path.Path         { return path.Root("directory").AtName("path") }

func (*directorySource) attribute(of release.Kind) schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: madeFrom(of, "Makes the base from a directory that holds a root file system. ",
			"Lays the files below a directory over the base. ",
			"A plan checks every file and reads those that changed. A device, pipe or socket is an error that names "+
				"its path. The content of `/dev`, `/proc`, `/sys`, `/run`, `/tmp` and `/var/tmp` is ignored."),
		Attributes: map[string]schema.Attribute{
			"path": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "Path of the directory on this machine.",
				Validators:          []validator.String{isLocalPath},
			},
			"owner": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Owner of the files in the " + string(of) +
					". `keep` takes the user and group ids on disk. " +
					"`root` gives all files to root, for a tree that an ordinary user unpacked. Default: `keep`.",
				Validators: []validator.String{oneOf(ownerKeep, ownerRoot)},
			},
			"uid_map": idMapAttribute(of, "uid"),
			"gid_map": idMapAttribute(of, "gid"),
		},
	}
}

func idMapAttribute(of release.Kind, what string) schema.Attribute {
	number := func(description string) schema.Attribute {
		return schema.Int64Attribute{Required: true, MarkdownDescription: description,
			Validators: []validator.Int64{isAccount}}
	}
	return schema.ListNestedAttribute{
		Optional: true,
		MarkdownDescription: "Maps ranges of " + what + "s on disk to " + what + "s in the " + string(of) +
			", as a user namespace " +
			"does, for a tree that was made in one. A file whose " + what +
			" is in no range is an error. Not allowed together with `owner = " +
			"\"root\"`.",
		Validators: []validator.List{listvalidator.SizeAtLeast(1)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"on_disk": number("First " + what + " of the range on disk, such as `100000`."),
			"in_tree": number("First " + what + " of the range in the " + string(of) + ", such as `0`."),
			"count":   number("Number of " + what + "s in the range, such as `65536`."),
		}},
	}
}

// isAccount accepts the number of a user or group.
var isAccount = int64validator.Between(0, math.MaxUint32-1)

func (s *directorySource) validate(ctx context.Context, refuse refuse) diag.Diagnostics {
	var model directoryModel
	diags := read(ctx, s.Directory, &model)
	if !diags.HasError() && model.Owner.ValueString() == ownerRoot &&
		!(model.UIDMap.IsNull() && model.GIDMap.IsNull()) {
		refuse(path.Root("directory").AtName("owner"), `owner is "root" and there is a map`,
			"Remove one of the two: the map says already who owns each file.")
	}
	return diags
}

func (s *directorySource) open(ctx context.Context, cache string,
	limits source.Limits) (source.Source, diag.Diagnostics) {
	var model directoryModel
	diags := read(ctx, s.Directory, &model)
	ranges := func(list types.List) []directory.IDRange {
		var models []idRangeModel
		if !list.IsNull() {
			diags.Append(list.ElementsAs(ctx, &models, false)...)
		}
		var all []directory.IDRange
		for _, r := range models {
			all = append(all, directory.IDRange{OnDisk: uint32(r.OnDisk),
				InTree: uint32(r.InTree), Count: uint32(r.Count)})
		}
		return all
	}
	return directory.Source{
		Path: model.Path.ValueString(),
		Owners: directory.Owners{Root: model.Owner.ValueString() == ownerRoot, UIDs: ranges(model.UIDMap),
			GIDs: ranges(model.GIDMap)},
		CacheDir: cache, Limits: limits,
	}, diags
}

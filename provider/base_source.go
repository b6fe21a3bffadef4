package provider

import (
	"context"
	"path/filepath"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/diskimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// debianModel is the attribute debian of sharedos_base.
type debianModel struct {
	Suite            types.String `tfsdk:"suite"`
	AdditionalSuites types.List   `tfsdk:"additional_suites"`
	Components       types.List   `tfsdk:"components"`
	Packages         types.Set    `tfsdk:"packages"`
	Mirror           types.String `tfsdk:"mirror"`
	MirrorKey        types.String `tfsdk:"mirror_key"`
	Repositories     types.List   `tfsdk:"repositories"`
	PackageFiles     types.List   `tfsdk:"package_files"`
	Files            types.Map    `tfsdk:"files"`
	Mode             types.String `tfsdk:"mode"`
	Triggers         types.Map    `tfsdk:"triggers"`
}

// repositoryModel is one of debian.repositories.
type repositoryModel struct {
	URI        types.String `tfsdk:"uri"`
	Suite      types.String `tfsdk:"suite"`
	Components types.List   `tfsdk:"components"`
	Key        types.String `tfsdk:"key"`
}

// fileModel is one of debian.files, by its path in the base.
type fileModel struct {
	Content types.String `tfsdk:"content"`
	From    types.String `tfsdk:"from"`
	Mode    types.String `tfsdk:"mode"`
	UID     types.Int64  `tfsdk:"uid"`
	GID     types.Int64  `tfsdk:"gid"`
}

// archiveModel is the attribute archive of sharedos_base.
type archiveModel struct {
	Path   types.String `tfsdk:"path"`
	URL    types.String `tfsdk:"url"`
	SHA256 types.String `tfsdk:"sha256"`
}

// diskImageModel is the attribute disk_image of sharedos_base.
type diskImageModel struct {
	Path      types.String `tfsdk:"path"`
	URL       types.String `tfsdk:"url"`
	SHA256    types.String `tfsdk:"sha256"`
	Partition types.Int64  `tfsdk:"partition"`
}

// directoryModel is the attribute directory of sharedos_base.
type directoryModel struct {
	Path   types.String   `tfsdk:"path"`
	Owner  types.String   `tfsdk:"owner"`
	UIDMap []idRangeModel `tfsdk:"uid_map"`
	GIDMap []idRangeModel `tfsdk:"gid_map"`
}

// directoryConfig is the same attribute while parts of it may be unknown.
type directoryConfig struct {
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

// What directory.owner can be.
const (
	ownerKeep = "keep"
	ownerRoot = "root"
)

// ociModel is the attribute oci of sharedos_base.
type ociModel struct {
	Reference types.String `tfsdk:"reference"`
	Layout    types.String `tfsdk:"layout"`
	PlainHTTP types.Bool   `tfsdk:"plain_http"`
	Triggers  types.Map    `tfsdk:"triggers"`
}

// limitsModel is the attribute limits of sharedos_base.
type limitsModel struct {
	Content sizeValue   `tfsdk:"content"`
	Entries types.Int64 `tfsdk:"entries"`
}

// namedSource is one of the attributes of which exactly one is set.
type namedSource struct {
	name   string
	object types.Object
}

func (m *baseModel) sources() []namedSource {
	return []namedSource{{"debian", m.Debian}, {"archive", m.Archive}, {"directory", m.Directory}, {"oci", m.OCI}, {"disk_image", m.DiskImage}}
}

// sourceKnown reports whether the source is known throughout.
func (m *baseModel) sourceKnown(ctx context.Context) (bool, error) {
	for _, s := range append(m.sources(), namedSource{"limits", m.Limits}) {
		value, err := s.object.ToTerraformValue(ctx)
		if err != nil || !value.IsFullyKnown() {
			return false, err
		}
	}
	return true, nil
}

// sameSource reports whether the user asks for the same source in the same words.
func (m *baseModel) sameSource(as baseModel) bool {
	for i, other := range as.sources() {
		if !m.sources()[i].object.Equal(other.object) {
			return false
		}
	}
	return true
}

// sourcePath is the attribute that the user chose the source with.
func (m *baseModel) sourcePath() path.Path {
	switch {
	case !m.Archive.IsNull():
		return path.Root("archive")
	case !m.DiskImage.IsNull():
		return path.Root("disk_image")
	case !m.Directory.IsNull():
		return path.Root("directory").AtName("path")
	case !m.OCI.IsNull():
		return path.Root("oci")
	default:
		return path.Root("debian")
	}
}

// spec turns the model into what a Publisher publishes. The source must be known.
func (m *baseModel) spec(ctx context.Context, cache string) (spec publish.Spec, diags diag.Diagnostics) {
	spec.Name, spec.PinAccounts = m.Name.ValueString(), m.PinAccounts.ValueBool()
	limits, diags := m.limits(ctx)
	as := func(object types.Object, model any) {
		diags.Append(object.As(ctx, model, basetypes.ObjectAsOptions{})...)
	}
	switch {
	case !m.Archive.IsNull():
		var model archiveModel
		as(m.Archive, &model)
		spec.Source = archive.Source{
			Path: model.Path.ValueString(), Download: download(model.URL, model.SHA256, &diags), CacheDir: cache, Limits: limits,
		}
	case !m.DiskImage.IsNull():
		var model diskImageModel
		as(m.DiskImage, &model)
		spec.Source = diskimage.Source{
			Path: model.Path.ValueString(), Download: download(model.URL, model.SHA256, &diags),
			Partition: int(model.Partition.ValueInt64()), CacheDir: cache, Limits: limits,
		}
	case !m.Directory.IsNull():
		var model directoryModel
		as(m.Directory, &model)
		spec.Source = directory.Source{
			Path: model.Path.ValueString(), Owners: model.owners(), CacheDir: cache, Limits: limits,
		}
	case !m.OCI.IsNull():
		var model ociModel
		as(m.OCI, &model)
		spec.Source = &oci.Source{
			Reference: model.Reference.ValueString(), Layout: model.Layout.ValueString(), Digest: m.SourceDigest.ValueString(),
			PlainHTTP: model.PlainHTTP.ValueBoolPointer(), CacheDir: cache, Limits: limits,
		}
	default:
		var model debianModel
		as(m.Debian, &model)
		src, d := model.source(ctx)
		diags.Append(d...)
		src.CacheDir, src.Limits = filepath.Join(cache, "debian"), limits
		spec.Source = src
	}
	return spec, diags
}

// download is what a URL brings; nil without one.
func download(url, sha256 types.String, diags *diag.Diagnostics) *fetch.Download {
	if url.IsNull() {
		return nil
	}
	digest, err := tree.ParseDigest("sha256:" + sha256.ValueString())
	if err != nil {
		diags.Append(failed(failure{do: "read", object: "sha256", err: err})...)
	}
	return &fetch.Download{URL: url.ValueString(), Digest: digest}
}

func (m *debianModel) source(ctx context.Context) (*debian.Source, diag.Diagnostics) {
	var diags diag.Diagnostics
	as := func(list interface {
		IsNull() bool
		ElementsAs(ctx context.Context, target any, allowUnhandled bool) diag.Diagnostics
	}, into any) {
		if !list.IsNull() {
			diags.Append(list.ElementsAs(ctx, into, false)...)
		}
	}
	src := &debian.Source{
		Suite: m.Suite.ValueString(), Mirror: m.Mirror.ValueString(), MirrorKey: m.MirrorKey.ValueString(), Mode: m.Mode.ValueString(),
	}
	// Null and empty differ here: null means the suite's own updates and security, empty the main archive alone.
	if !m.AdditionalSuites.IsNull() {
		src.AdditionalSuites = []string{}
	}
	as(m.AdditionalSuites, &src.AdditionalSuites)
	as(m.Components, &src.Components)
	as(m.Packages, &src.Packages)
	as(m.PackageFiles, &src.PackageFiles)
	as(m.Triggers, &src.Triggers)
	var repositories []repositoryModel
	as(m.Repositories, &repositories)
	for _, r := range repositories {
		repository := debian.Repository{URI: r.URI.ValueString(), Suite: r.Suite.ValueString(), Key: r.Key.ValueString()}
		as(r.Components, &repository.Components)
		src.Repositories = append(src.Repositories, repository)
	}
	var files map[string]fileModel
	as(m.Files, &files)
	for p, f := range files {
		file := debian.File{
			Path: p, Content: f.Content.ValueString(), From: f.From.ValueString(), Mode: 0o644,
			UID: uint32(f.UID.ValueInt64()), GID: uint32(f.GID.ValueInt64()),
		}
		if !f.Mode.IsNull() {
			mode, err := strconv.ParseUint(f.Mode.ValueString(), 8, 12)
			if err != nil {
				diags.Append(failed(failure{do: "read", object: "the mode of " + p, err: err})...)
			}
			file.Mode = uint32(mode)
		}
		src.Files = append(src.Files, file)
	}
	return src, diags
}

func (m *directoryModel) owners() directory.Owners {
	ranges := func(models []idRangeModel) []directory.IDRange {
		var all []directory.IDRange
		for _, r := range models {
			all = append(all, directory.IDRange{OnDisk: uint32(r.OnDisk), InTree: uint32(r.InTree), Count: uint32(r.Count)})
		}
		return all
	}
	return directory.Owners{Root: m.Owner.ValueString() == ownerRoot, UIDs: ranges(m.UIDMap), GIDs: ranges(m.GIDMap)}
}

func (m *baseModel) limits(ctx context.Context) (source.Limits, diag.Diagnostics) {
	if m.Limits.IsNull() {
		return source.Limits{}, nil
	}
	var model limitsModel
	diags := m.Limits.As(ctx, &model, basetypes.ObjectAsOptions{})
	return source.Limits{Content: model.Content.Bytes(), Entries: int(model.Entries.ValueInt64())}, diags
}

// watched is the fingerprint of what a plan looks at of a source that is there already; empty if it looks at nothing,
// because that would ask others over a network.
func watched(ctx context.Context, src source.Source) (string, error) {
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

// pin makes sure that the source stays what it is now: it resolves a tag, unless that was done before.
func (m *baseModel) pin(ctx context.Context, spec *publish.Spec) error {
	image, ok := spec.Source.(*oci.Source)
	if !ok || image.Layout != "" {
		m.SourceDigest = types.StringNull()
		return nil
	}
	if !m.SourceDigest.IsUnknown() {
		return nil
	}
	digest, err := image.Pin(ctx)
	if err != nil {
		return err
	}
	m.SourceDigest, image.Digest = types.StringValue(digest), digest
	return nil
}

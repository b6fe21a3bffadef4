package provider

import (
	"context"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// debianSource is the source debian.
type debianSource struct {
	Debian types.Object `tfsdk:"debian"`
}

var _ sourceAttribute = (*debianSource)(nil)

// debianModel is the value of the source debian.
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
	CheckValidUntil  types.Bool   `tfsdk:"check_valid_until"`
	Triggers         types.Map    `tfsdk:"triggers"`
}

// repositoryModel is one value of debian.repositories.
type repositoryModel struct {
	URI        types.String `tfsdk:"uri"`
	Suite      types.String `tfsdk:"suite"`
	Components types.List   `tfsdk:"components"`
	Key        types.String `tfsdk:"key"`
}

// overlayFileModel is one value of debian.files, whose key is its path in the base.
type overlayFileModel struct {
	Content types.String `tfsdk:"content"`
	From    types.String `tfsdk:"from"`
	Mode    types.String `tfsdk:"mode"`
	UID     types.Int64  `tfsdk:"uid"`
	GID     types.Int64  `tfsdk:"gid"`
}

func (*debianSource) name() string          { return "debian" }
func (s *debianSource) value() types.Object { return s.Debian }
func (*debianSource) at() path.Path         { return path.Root("debian") }

// validate refuses files that would not reach a VM.
func (s *debianSource) validate(ctx context.Context, refuse refuse) diag.Diagnostics {
	files, ok := s.Debian.Attributes()["files"].(types.Map)
	if !ok {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(files.Elements())) {
		relative, absolute := strings.CutPrefix(name, "/")
		if !absolute || tree.CheckPath(relative) != nil {
			continue // the validator of the keys reports it
		}
		if err := rootfs.CheckGiven(relative); err != nil {
			refuse(path.Root("debian").AtName("files").AtMapKey(name), err.Error(),
				"Remove it from files. A VM's host name is its attribute "+
					"hostname; what else differs from VM to VM is best made in the VM.")
		}
	}
	return nil
}

// debianTexts are descriptions that differ between a base and a component.
type debianTexts struct {
	suite, suites, components, packages, files, repositories, checkValidUntil string
}

var (
	debianInBase = debianTexts{
		suite:      "Debian suite, such as `trixie`.",
		components: "Default: `main`.",
		packages: "Packages to install in addition to the minimal system. A kernel " +
			"(`linux-image-cloud-amd64`) and `systemd-sysv` must be among them or among their dependencies.",
		files:        "When only these files change, the packages are not installed again. ",
		repositories: "They stay in the apt configuration of the base.",

		checkValidUntil: ", and stays in the apt configuration of the base",
	}
	debianInComponent = debianTexts{
		suite:      "Debian suite, such as `trixie`. Default: the suites of Debian in the apt configuration of the base.",
		suites:     " If `suite` is not set, the other suites in the apt configuration of the base.",
		components: "Default: `main`, or those in the apt configuration of the base if `suite` is not set.",
		packages: "Packages to install in addition to those of the base, with their dependencies. The packages of " +
			"the base keep their versions: it is an error if that is not possible.",
		repositories: "They are used while the component is built, and are not added to the apt configuration of the VM.",
	}
)

func (*debianSource) attribute(of release.Kind) schema.SingleNestedAttribute {
	text := debianInBase
	if of == release.Component {
		text = debianInComponent
	}
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: madeFrom(of, "Makes the base from Debian packages, with `mmdebstrap`.",
			"Installs Debian packages in a copy of the base, with `mmdebstrap`.", ""),
		Attributes: map[string]schema.Attribute{
			"suite": schema.StringAttribute{
				Required: of == release.Base, Optional: of != release.Base,
				MarkdownDescription: text.suite,
				Validators:          []validator.String{notEmpty},
			},
			"additional_suites": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "More suites to take packages from. Default: the `-updates` and `-security` " +
					"suites of `suite`." + text.suites +
					" With an empty list, only the main archive is used, as it was released.",
				Validators: []validator.List{listvalidator.ValueStringsAre(notEmpty)},
			},
			"components": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Components of the archive, such as `main` and `non-free-firmware`. " +
					text.components,
				Validators: []validator.List{listvalidator.SizeAtLeast(1),
					listvalidator.ValueStringsAre(notEmpty)},
			},
			"packages": schema.SetAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: text.packages,
				Validators: []validator.Set{setvalidator.SizeAtLeast(1),
					setvalidator.ValueStringsAre(notEmpty)},
			},
			"mirror": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "URI of a Debian mirror. Default: the mirror in this machine's own apt " +
					"configuration.",
				Validators: []validator.String{isDownload},
			},
			"mirror_key": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "OpenPGP public key that signs `mirror`, in ASCII armour. Default: the keys " +
					"that this machine's apt trusts.",
				Validators: []validator.String{isKey,
					stringvalidator.AlsoRequires(path.MatchRelative().AtParent().AtName("mirror"))},
			},
			"repositories": schema.ListNestedAttribute{
				Optional:            true,
				MarkdownDescription: "Archives to take packages from in addition to Debian's own. " + text.repositories,
				Validators:          []validator.List{listvalidator.SizeAtLeast(1)},
				NestedObject:        schema.NestedAttributeObject{Attributes: repositoryAttributes()},
			},
			"package_files": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Paths of `.deb` files on this machine to install in addition to `packages`. A " +
					"plan reads them: another file under the same path is another release.",
				Validators: []validator.List{listvalidator.SizeAtLeast(1),
					listvalidator.ValueStringsAre(isPackageFile)},
			},
			"files": schema.MapNestedAttribute{
				Optional: true,
				MarkdownDescription: "Files to add to the " + string(of) +
					", or to replace files of packages with, by their " +
					"absolute paths. Each has `content` or `from`. " + text.files +
					"A file that would not reach a VM, such as `/etc/hostname`, is refused.",
				Validators:   []validator.Map{mapvalidator.SizeAtLeast(1), mapvalidator.KeysAre(isAbsolute)},
				NestedObject: schema.NestedAttributeObject{Attributes: overlayFileAttributes()},
			},
			"mode": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "How `mmdebstrap` gets the privileges that it needs: `root`; `unshare`, in a " +
					"user namespace, which needs the package `uidmap`; `fakechroot`, by libraries that simulate " +
					"them. Default: `auto`, which takes the first mode that works.",
				Validators: []validator.String{oneOf(debian.Modes...)},
			},
			"check_valid_until": schema.BoolAttribute{
				Optional: true,
				MarkdownDescription: "Whether archives must not be older than they say (`Valid-Until`). `false` is needed for " +
					"snapshots of an archive at an earlier date" + text.checkValidUntil + ". Default: `true`.",
			},
			"triggers": triggersAttribute("Debian's archive is read again"),
		},
	}
}

func repositoryAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"uri": schema.StringAttribute{
			Required:            true,
			MarkdownDescription: "HTTP or HTTPS URI of the archive: the part before `/dists`.",
			Validators:          []validator.String{isDownload},
		},
		"suite": schema.StringAttribute{
			Required:            true,
			MarkdownDescription: "Suite in the archive.",
			Validators:          []validator.String{notEmpty},
		},
		"components": schema.ListAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Components of the archive. Default: `main`.",
			Validators: []validator.List{listvalidator.SizeAtLeast(1),
				listvalidator.ValueStringsAre(notEmpty)},
		},
		"key": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "OpenPGP public key that signs the archive, in ASCII armour, such as " +
				"`file(\"archive.asc\")`. Default: the keys that this machine's apt trusts.",
			Validators: []validator.String{isKey},
		},
	}
}

func overlayFileAttributes() map[string]schema.Attribute {
	account := func(what string) schema.Attribute {
		return schema.Int64Attribute{
			Optional: true, MarkdownDescription: what + " of the owner. Default: `0`.",
			Validators: []validator.Int64{isAccount},
		}
	}
	return map[string]schema.Attribute{
		"content": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "Content of the file.",
			Validators: []validator.String{stringvalidator.ExactlyOneOf(
				path.MatchRelative().AtParent().AtName("from"))},
		},
		"from": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "Path of a file on this machine with the content. A plan reads it: other content is " +
				"another release.",
			Validators: []validator.String{isLocalPath},
		},
		"mode": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "Permission bits in octal, such as `0755`. Default: `0644`.",
			Validators: []validator.String{matches(regexp.MustCompile(`^[0-7]{3,4}$`),
				"a mode: a mode has three or four octal digits")},
		},
		"uid": account("User id"),
		"gid": account("Group id"),
	}
}

func (s *debianSource) open(ctx context.Context, cache string, limits source.Limits) (source.Source, diag.Diagnostics) {
	var model debianModel
	diags := read(ctx, s.Debian, &model)
	as := func(list interface {
		IsNull() bool
		ElementsAs(ctx context.Context, target any, allowUnhandled bool) diag.Diagnostics
	}, into any) {
		if !list.IsNull() {
			diags.Append(list.ElementsAs(ctx, into, false)...)
		}
	}
	src := &debian.Source{
		Suite: model.Suite.ValueString(), Mirror: model.Mirror.ValueString(), MirrorKey: model.MirrorKey.ValueString(),
		AnyDate: !model.CheckValidUntil.IsNull() && !model.CheckValidUntil.ValueBool(),
		Mode:    model.Mode.ValueString(), CacheDir: filepath.Join(cache, "debian"), Limits: limits,
	}
	// Null means the update and security suites of the suite, and an empty list only the main archive.
	if !model.AdditionalSuites.IsNull() {
		src.AdditionalSuites = []string{}
	}
	as(model.AdditionalSuites, &src.AdditionalSuites)
	as(model.Components, &src.Components)
	as(model.Packages, &src.Packages)
	as(model.PackageFiles, &src.PackageFiles)
	as(model.Triggers, &src.Triggers)
	var repositories []repositoryModel
	as(model.Repositories, &repositories)
	for _, r := range repositories {
		repository := debian.Repository{URI: r.URI.ValueString(), Suite: r.Suite.ValueString(),
			Key: r.Key.ValueString()}
		as(r.Components, &repository.Components)
		src.Repositories = append(src.Repositories, repository)
	}
	var files map[string]overlayFileModel
	as(model.Files, &files)
	for name, f := range files {
		file := debian.File{
			Path: name, Content: f.Content.ValueString(), From: f.From.ValueString(), Mode: 0o644,
			UID: uint32(f.UID.ValueInt64()), GID: uint32(f.GID.ValueInt64()),
		}
		if !f.Mode.IsNull() {
			mode, err := strconv.ParseUint(f.Mode.ValueString(), 8, 12)
			if err != nil {
				diags.Append(failedAt(path.Root("debian").AtName("files").AtMapKey(name).AtName("mode"),
					failure{do: "read", object: "the mode of " + name, err: err})...)
			}
			file.Mode = uint32(mode)
		}
		src.Files = append(src.Files, file)
	}
	return src, diags
}

package provider

import (
	"fmt"
	"math"
	"regexp"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
)

// oneSource ends the description of each of them.
const oneSource = " Exactly one source is set."

// notEmpty refuses the empty text.
var notEmpty = stringvalidator.LengthAtLeast(1)

func debianAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional:            true,
		MarkdownDescription: "Makes the base from Debian's packages, with `mmdebstrap`." + oneSource,
		Attributes: map[string]schema.Attribute{
			"suite": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "Debian suite, such as `trixie`.",
				Validators:          []validator.String{notEmpty},
			},
			"additional_suites": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Further suites to take packages from. Default: the suite's own `-updates` and `-security`. " +
					"An empty list takes the main archive alone, as it was released.",
				Validators: []validator.List{listvalidator.ValueStringsAre(notEmpty)},
			},
			"components": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Archive areas, such as `main` and `non-free-firmware`. Default: `main`.",
				Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(notEmpty)},
			},
			"packages": schema.SetAttribute{
				Required: true, ElementType: types.StringType,
				MarkdownDescription: "Packages beside the minimal system. A kernel (`linux-image-cloud-amd64`) and `systemd-sysv` must be among them or follow from them.",
				Validators:          []validator.Set{setvalidator.SizeAtLeast(1), setvalidator.ValueStringsAre(notEmpty)},
			},
			"mirror": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "URI of a Debian mirror. Default: the one that this machine's own apt uses.",
				Validators:          []validator.String{notEmpty},
			},
			"mirror_key": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "OpenPGP public key that signs `mirror`, in ASCII armour. Default: one that this machine's apt trusts.",
				Validators:          []validator.String{isKey, stringvalidator.AlsoRequires(path.MatchRelative().AtParent().AtName("mirror"))},
			},
			"repositories": repositoriesAttribute(),
			"package_files": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Paths of `.deb` files on this machine to install beside `packages`. A plan looks at them: another file under the " +
					"same path is another release.",
				Validators: []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(isPackageFile)},
			},
			"files": filesAttribute(),
			"mode": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "How `mmdebstrap` gets the rights that it needs: `root`; `unshare`, in a user namespace, which takes the package " +
					"`uidmap`; `fakechroot`, by libraries that pretend. Default: `auto`, which takes what works.",
				Validators: []validator.String{stringvalidator.OneOf(debian.Modes...)},
			},
			"triggers": triggersAttribute("Debian's archive is read again"),
		},
	}
}

func repositoriesAttribute() schema.Attribute {
	return schema.ListNestedAttribute{
		Optional:            true,
		MarkdownDescription: "Archives beside Debian's own to take packages from. They stay known to apt in the base.",
		Validators:          []validator.List{listvalidator.SizeAtLeast(1)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"uri": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "HTTP or HTTPS URI of the archive: what stands before `/dists`.",
				Validators:          []validator.String{isDownload},
			},
			"suite": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "Suite in it.",
				Validators:          []validator.String{notEmpty},
			},
			"components": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Areas of it. Default: `main`.",
				Validators:          []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(notEmpty)},
			},
			"key": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "OpenPGP public key that signs it, in ASCII armour, such as `file(\"archive.asc\")`. Default: one that this machine's apt trusts.",
				Validators:          []validator.String{isKey},
			},
		}},
	}
}

func filesAttribute() schema.Attribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Files that are laid over what the packages bring, by their absolute paths. Each has `content` or `from`. A change of " +
			"them does not have the packages installed again.",
		Validators: []validator.Map{mapvalidator.SizeAtLeast(1), mapvalidator.KeysAre(isAbsolute)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"content": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Content of the file.",
				Validators:          []validator.String{stringvalidator.ExactlyOneOf(path.MatchRelative().AtParent().AtName("from"))},
			},
			"from": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Path of a file on this machine that has the content. A plan looks at it: other bytes are another release.",
				Validators:          []validator.String{notEmpty},
			},
			"mode": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Permission bits in octal, such as `0755`. Default: `0644`.",
				Validators:          []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^[0-7]{3,4}$`), "a mode has three or four octal digits")},
			},
			"uid": accountAttribute("User id"),
			"gid": accountAttribute("Group id"),
		}},
	}
}

func accountAttribute(what string) schema.Attribute {
	return schema.Int64Attribute{
		Optional:            true,
		MarkdownDescription: what + " of the owner. Default: `0`.",
		Validators:          []validator.Int64{int64validator.Between(0, math.MaxUint32-1)},
	}
}

func archiveAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Makes the base from an archive of a root file system. A plan reads it: other bytes under the same " +
			"path are another release." + oneSource,
		Attributes: fileAttributes("a tar archive, plain or compressed with gzip, zstd, xz or bzip2"),
	}
}

// fileAttributes say where a file is, on this machine or elsewhere.
func fileAttributes(what string) map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"path": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "Path on this machine of " + what + ". Exactly one of `path` and `url` is set.",
			Validators:          []validator.String{notEmpty},
		},
		"url": schema.StringAttribute{
			Optional:            true,
			MarkdownDescription: "HTTP or HTTPS URL of " + what + ". It is fetched once, and goes on where it was cut off.",
			Validators:          []validator.String{isDownload},
		},
		"sha256": schema.StringAttribute{
			Optional: true,
			MarkdownDescription: "SHA-256 of what `url` brings, as 64 hexadecimal digits. Required with `url`: nothing of it is used before it " +
				"was checked.",
			Validators: []validator.String{stringvalidator.RegexMatches(regexp.MustCompile(`^[0-9a-f]{64}$`), "a SHA-256 has 64 hexadecimal digits in lower case")},
		},
	}
}

func diskImageAttribute() schema.Attribute {
	attributes := fileAttributes("the image, raw or qcow2")
	attributes["partition"] = schema.Int64Attribute{
		Optional: true,
		MarkdownDescription: "Number of the partition with the root file system. Default: the one whose type in the GPT says that it is the root " +
			"of this machine's architecture, else the only one of Linux's general type, else the whole disk if it has no partition table.",
		Validators: []validator.Int64{int64validator.AtLeast(1)},
	}
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Makes the base from the image of a disk, such as a cloud image. A plan reads it: other bytes under the same path are " +
			"another release. This machine's kernel mounts its file system, read-only, which takes root and a loop device: take images " +
			"only from those whom you would let run as root." + oneSource,
		Attributes: attributes,
	}
}

func directoryAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Makes the base from a directory that holds a root file system. A plan looks at every file and reads " +
			"those that changed. Devices, pipes and sockets are refused by name; what lies in `/dev`, `/proc`, `/sys`, `/run`, `/tmp` " +
			"and `/var/tmp` is not read." + oneSource,
		Attributes: map[string]schema.Attribute{
			"path": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "Path of the directory on this machine.",
				Validators:          []validator.String{notEmpty},
			},
			"owner": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Whose the files are in the base: `keep` takes the numbers that they have on disk, `root` gives " +
					"them all to root, for a tree that an ordinary user laid out. Default: `keep`.",
				Validators: []validator.String{stringvalidator.OneOf(ownerKeep, ownerRoot)},
			},
			"uid_map": idMapAttribute("uid"),
			"gid_map": idMapAttribute("gid"),
		},
	}
}

func idMapAttribute(what string) schema.Attribute {
	number := func(description string) schema.Attribute {
		return schema.Int64Attribute{
			Required: true, MarkdownDescription: description,
			Validators: []validator.Int64{int64validator.Between(0, math.MaxUint32-1)},
		}
	}
	return schema.ListNestedAttribute{
		Optional: true,
		MarkdownDescription: "Maps ranges of " + what + "s on disk to " + what + "s in the base, as a user namespace does, for a tree that was " +
			"made in one. A file whose " + what + " is in no range is refused. Not together with `owner = \"root\"`.",
		Validators: []validator.List{listvalidator.SizeAtLeast(1)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"on_disk": number("First " + what + " of the range on disk, such as `100000`."),
			"in_tree": number("First " + what + " of the range in the base, such as `0`."),
			"count":   number("How many numbers the range has, such as `65536`."),
		}},
	}
}

func ociAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Makes the base from an OCI image: of a registry, or of a directory in the OCI image layout. Of an index the " +
			"image for Linux on this machine's architecture is taken. Credentials are those of Docker's configuration, credential " +
			"helpers included." + oneSource,
		Attributes: map[string]schema.Attribute{
			"reference": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Reference with its registry, such as `registry.example.com/os/debian:13`, or with a digest. A tag is " +
					"resolved when the attribute is new or a trigger changes, and pinned as `source_digest`. With `layout`: the name of an " +
					"image in it, or its digest; default: its only image.",
				Validators: []validator.String{notEmpty},
			},
			"layout": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Path of a directory in the OCI image layout, instead of a registry. A plan reads its index: another image under the same name is another release.",
				Validators:          []validator.String{notEmpty},
			},
			"plain_http": schema.BoolAttribute{
				Optional:            true,
				MarkdownDescription: "Whether the registry is asked without TLS. Default: only if it is on this machine's loopback.",
			},
			"triggers": triggersAttribute("A tag is resolved again"),
		},
	}
}

func triggersAttribute(what string) schema.Attribute {
	return schema.MapAttribute{
		Optional: true, ElementType: types.StringType,
		MarkdownDescription: "Texts without a meaning of their own. " + what + " whenever one changes, such as a date.",
	}
}

func limitsAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true,
		MarkdownDescription: "Bounds on what a source may hold, against what is no operating system and against archives that unpack to far " +
			"more than they are.",
		Attributes: map[string]schema.Attribute{
			"content": schema.StringAttribute{
				Optional: true, CustomType: sizeType{},
				MarkdownDescription: "Bytes of all files together, such as `32GiB`. Default: `" + formatSize(source.DefaultContentLimit) + "`.",
			},
			"entries": schema.Int64Attribute{
				Optional:            true,
				MarkdownDescription: fmt.Sprintf("Number of files and directories. Default: `%d`.", source.DefaultEntriesLimit),
				Validators:          []validator.Int64{int64validator.AtLeast(1)},
			},
		},
	}
}

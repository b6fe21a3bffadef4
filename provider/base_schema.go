package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/setvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// Schema implements resource.Resource.
func (r *baseResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	notEmpty := stringvalidator.LengthAtLeast(1)
	resp.Schema = schema.Schema{
		MarkdownDescription: "A base: a named operating system, kept in the pool once and shared by every VM that runs it. " +
			"A changed source makes the next release of the same base, in place; only what differs is stored. " +
			"A base is deleted with its whole history, and not while a VM uses it.",
		Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{
				Required: true,
				MarkdownDescription: "Name of the base in the pool: lower-case letters, digits, dots, underscores and hyphens. " +
					"It is the base's identity: another name is another base.",
				Validators:    []validator.String{isName},
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"debian": schema.SingleNestedAttribute{
				Optional:            true,
				MarkdownDescription: "Makes the base from Debian's packages, with `mmdebstrap`. Exactly one of `debian` and `archive` is set.",
				Attributes:          debianAttributes(notEmpty),
			},
			"archive": schema.SingleNestedAttribute{
				Optional: true,
				MarkdownDescription: "Makes the base from an archive of a root file system. A plan reads it: other bytes under the same " +
					"path are another release. Exactly one of `debian` and `archive` is set.",
				Attributes: map[string]schema.Attribute{
					"path": schema.StringAttribute{
						Required:            true,
						MarkdownDescription: "Path of a tar archive on this machine, plain or compressed with gzip, zstd or xz.",
						Validators:          []validator.String{notEmpty},
					},
				},
			},
			"release": schema.StringAttribute{
				Computed:            true,
				MarkdownDescription: "Id of the newest release, of the form `sha256:<64 hex>`: what a VM's `base` takes. Known in the plan whenever nothing has to be built to know it.",
			},
			"sequence": schema.Int64Attribute{
				Computed:            true,
				MarkdownDescription: "Number of the newest release, from 1.",
			},
			"previous": schema.StringAttribute{
				Computed:            true,
				MarkdownDescription: "Id of the release before; null for the first.",
			},
			"layers": schema.ListNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Layers of the newest release, bottom to top.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"id": schema.StringAttribute{
						Computed:            true,
						MarkdownDescription: "Id of the layer: its dm-verity root digest, of the form `sha256:<64 hex>`.",
					},
					"size": schema.Int64Attribute{
						Computed:            true,
						MarkdownDescription: "Size in bytes, hash tree included.",
					},
					"delta": schema.BoolAttribute{
						Computed:            true,
						MarkdownDescription: "Whether it holds only what differs from the layers below.",
					},
				}},
			},
			"bytes": schema.Int64Attribute{
				Computed:            true,
				MarkdownDescription: "Bytes of all layers of the newest release together. The pool holds them once, however many VMs run them.",
			},
			"kernel": schema.StringAttribute{
				Computed:            true,
				MarkdownDescription: "Kernel release, as `uname -r` prints it.",
			},
			"os": schema.StringAttribute{
				Computed:            true,
				MarkdownDescription: "Name of the operating system: `PRETTY_NAME` of its `os-release`.",
			},
			"packages": schema.MapAttribute{
				Computed: true, ElementType: types.StringType,
				MarkdownDescription: "Versions of the installed packages by name.",
			},
			"change":   changeAttribute(),
			"timeouts": timeoutsAttribute(ctx, baseWriteTimeout),
		},
	}
}

func debianAttributes(notEmpty validator.String) map[string]schema.Attribute {
	return map[string]schema.Attribute{
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
		"triggers": schema.MapAttribute{
			Optional: true, ElementType: types.StringType,
			MarkdownDescription: "Texts without a meaning of their own. Debian's archive is read again whenever one changes, such as a date.",
		},
	}
}

func changeAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Computed:            true,
		MarkdownDescription: "What the newest release changed; null for the first one, and for one that somebody else published.",
		Attributes: map[string]schema.Attribute{
			"added":   schema.Int64Attribute{Computed: true, MarkdownDescription: "Files added."},
			"changed": schema.Int64Attribute{Computed: true, MarkdownDescription: "Files changed."},
			"removed": schema.Int64Attribute{Computed: true, MarkdownDescription: "Files removed."},
			"changed_bytes": schema.Int64Attribute{
				Computed:            true,
				MarkdownDescription: "Bytes of the files added and changed.",
			},
			"delta_bytes": schema.Int64Attribute{
				Computed:            true,
				MarkdownDescription: "Bytes of the layer that was written for them.",
			},
			"packages": schema.ListAttribute{
				Computed: true, ElementType: types.StringType,
				MarkdownDescription: "Packages that differ, such as `openssl 3.5.1-1 → 3.5.1-1+deb13u1`.",
			},
			"kernel_from": schema.StringAttribute{Computed: true, MarkdownDescription: "Kernel release before."},
			"kernel_to":   schema.StringAttribute{Computed: true, MarkdownDescription: "Kernel release now; equal to `kernel_from` if the kernel stayed."},
		},
	}
}

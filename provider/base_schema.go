package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// Schema implements resource.Resource.
func (r *baseResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
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
			"debian":     debianAttribute(),
			"archive":    archiveAttribute(),
			"directory":  directoryAttribute(),
			"oci":        ociAttribute(),
			"disk_image": diskImageAttribute(),
			"limits":     limitsAttribute(),
			"retain":     retainAttribute(),
			"pin_accounts": schema.BoolAttribute{
				Optional: true,
				MarkdownDescription: "Gives users and groups the numbers that they had in the release before, in `/etc/passwd`, `/etc/group`, owners and " +
					"access control lists. An account that is new and has such a number gets a free one. Default: `false`, and a release " +
					"whose accounts moved is refused, since files that VMs keep in `/var` and `/home` would change owner.",
			},
			"source_digest": schema.StringAttribute{
				Computed: true,
				MarkdownDescription: "Digest of the image that `oci.reference` stood for when it was planned, of the form `sha256:<64 hex>`: " +
					"the newest release was made from it, wherever a tag has moved since. Null for other sources.",
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
			"change":  changeAttribute(),
			"history": historyAttribute(),
			"deltas_left": schema.Int64Attribute{
				Computed:            true,
				MarkdownDescription: "How many more releases can be deltas before the provider's `max_layers` is reached. At 0, the next release is a full layer.",
			},
			"next_layer": schema.StringAttribute{
				Computed: true,
				MarkdownDescription: "How the next release will be stored, as far as it can be told before it is built: as a delta or as a full layer, and what decides. " +
					"The plan of a release that has to be built first shows it as what was before.",
			},
			"timeouts": timeoutsAttribute(ctx, baseWriteTimeout),
		},
	}
}

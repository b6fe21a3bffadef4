package provider

import (
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// Types of the objects that the provider fills in. A test holds them against the schema.
var (
	stackTypes = map[string]attr.Type{
		"base": types.StringType, "components": types.ListType{ElemType: types.StringType},
		"layers": types.ListType{ElemType: types.StringType}, "kernel": types.StringType,
	}
	agentTypes = map[string]attr.Type{
		"version": types.StringType, "digest": types.StringType, "refused": types.StringType, "kernel": types.StringType,
		"ready_seconds": types.Float64Type, "answering": types.BoolType,
	}
	unitImpactType = types.ObjectType{AttrTypes: map[string]attr.Type{
		"unit": types.StringType, "level": types.StringType, "reason": types.StringType,
		"paths": types.ListType{ElemType: types.StringType}, "packages": types.ListType{ElemType: types.StringType},
	}}
	heldLayerType = types.ObjectType{AttrTypes: map[string]attr.Type{
		"layer": types.StringType, "by": types.ListType{ElemType: types.StringType},
	}}
	impactTypes = map[string]attr.Type{
		"level": types.StringType, "units": types.ListType{ElemType: unitImpactType},
		"reasons": types.ListType{ElemType: types.StringType}, "left": types.ListType{ElemType: types.StringType},
		"sessions": types.ListType{ElemType: types.StringType},
	}
	unitRestartType = types.ObjectType{AttrTypes: map[string]attr.Type{
		"unit": types.StringType, "level": types.StringType,
		"interruption_ms": types.Float64Type, "error": types.StringType,
	}}
	lastRefreshTypes = map[string]attr.Type{
		"from": types.StringType, "to": types.StringType, "committed": types.BoolType, "error": types.StringType,
		"level": types.StringType, "delta_bytes": types.Int64Type, "etc_carried": types.Int64Type,
		"restarted":  types.ListType{ElemType: unitRestartType},
		"unaffected": types.ListType{ElemType: types.StringType},
		"pinned":     types.ListType{ElemType: types.StringType},
		"conflicts":  types.ListType{ElemType: types.StringType},
		"remaining":  types.ListType{ElemType: types.StringType},
		"left":       types.ListType{ElemType: types.StringType},
		"unchecked":  types.ListType{ElemType: types.StringType},
		"pending":    types.ListType{ElemType: types.StringType},
		"timings_ms": types.MapType{ElemType: types.Float64Type},
	}
)

func computedTexts(description string) schema.Attribute {
	return schema.ListAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: description}
}

func computedText(description string) schema.Attribute {
	return schema.StringAttribute{Computed: true, MarkdownDescription: description}
}

func stackAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Computed:            true,
		MarkdownDescription: "The stack that the VM really runs, as its agent says; while the agent does not answer, what was last heard, or else what the VM was given.",
		Attributes: map[string]schema.Attribute{
			"base":       computedText("Id of the base release."),
			"components": computedTexts("Ids of the component releases."),
			"layers":     computedTexts("Ids of the layers, bottom to top."),
			"kernel":     computedText("Kernel release of the base. What runs until the next power-off and start is in `agent.kernel`."),
		},
	}
}

func agentAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Computed:            true,
		MarkdownDescription: "The agent in the guest as last heard; null if it was never heard.",
		Attributes: map[string]schema.Attribute{
			"version": computedText("Version of the agent. Every update brings the provider's own to a VM that runs another one."),
			"digest":  computedText("SHA-256 of the agent's program, `sha256:…`; null if it does not tell."),
			"refused": computedText("Why the agent that was to take over last serves no more; null if none failed since the VM was started."),
			"kernel":  computedText("Kernel release that runs, as `uname -r` prints it."),
			"ready_seconds": schema.Float64Attribute{
				Computed:            true,
				MarkdownDescription: "Seconds from the start of the domain, as Terraform last saw one, to the agent's first answer.",
			},
			"answering": schema.BoolAttribute{
				Computed:            true,
				MarkdownDescription: "Whether it answered when last asked. A silent agent changes nothing in the plan.",
			},
		},
	}
}

func heldLayersAttribute() schema.Attribute {
	return schema.ListNestedAttribute{
		Computed: true,
		MarkdownDescription: "Layers that stay attached although the VM's stack needs them no more, because something in the guest still uses them. " +
			"Once nobody does, a plan changes this attribute, and its apply unplugs them; nothing is interrupted.",
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"layer": computedText("Id of the layer."),
			"by":    computedTexts("Who uses it: units with their processes and what of it they hold, or the root file system until the next boot. Empty if nobody does any more."),
		}},
	}
}

func impactAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the last planned change of the stack interrupts, assessed by the agent while planning. Unknown while the release " +
			"is not known or the agent does not answer; null for a VM whose stack never changed.",
		Attributes: map[string]schema.Attribute{
			"level": computedText("`none`, `reload`, `restart`, `soft_reboot`, `kexec` or `reboot`."),
			"units": schema.ListNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Units that use what changes.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"unit":     computedText("Name of the unit."),
					"level":    computedText("What happens to it."),
					"reason":   computedText("Why."),
					"paths":    computedTexts("Files that it uses and that change, at most 20 of them."),
					"packages": computedTexts("Debian packages that these files are from."),
				}},
			},
			"reasons":  computedTexts("Why more than a restart of units is needed."),
			"left":     computedTexts("Units that use what changes and that `refresh.policy` leaves alone, with the reason."),
			"sessions": computedTexts("Processes of users' sessions that use what changes. They are never ended."),
		},
	}
}

func lastRefreshAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Computed:            true,
		MarkdownDescription: "What the last refresh by Terraform did; null if there was none.",
		Attributes: map[string]schema.Attribute{
			"from":      computedText("Id of the base release before."),
			"to":        computedText("Id of the base release that it was for."),
			"committed": schema.BoolAttribute{Computed: true, MarkdownDescription: "Whether the VM runs it; otherwise it went back to what it ran."},
			"error":     computedText("Why it was rolled back; null if it was not."),
			"level":     computedText("The impact that it had."),
			"delta_bytes": schema.Int64Attribute{
				Computed:            true,
				MarkdownDescription: "Bytes of the layers that the VM did not have before. They are attached, not copied.",
			},
			"etc_carried": schema.Int64Attribute{Computed: true, MarkdownDescription: "Files in `/etc` that took the new version."},
			"restarted": schema.ListNestedAttribute{
				Computed:            true,
				MarkdownDescription: "Units that were interrupted.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"unit":            computedText("Name of the unit."),
					"level":           computedText("What happened to it."),
					"interruption_ms": schema.Float64Attribute{Computed: true, MarkdownDescription: "Milliseconds from active to active again."},
					"error":           computedText("Why it did not come back; null if it did."),
				}},
			},
			"unaffected": computedTexts("Units that nothing of the change touches; they were left alone."),
			"pinned":     computedTexts("Units that keep the old `/usr` in a mount namespace of their own and need nothing of what changed."),
			"conflicts":  computedTexts("Files in `/etc` that were changed here and in the release; what is here stayed."),
			"remaining":  computedTexts("Processes that still run old code."),
			"left":       computedTexts("Units that `refresh.policy` left alone, with the reason: they run old code until you restart them."),
			"unchecked":  computedTexts("Health checks that were bad before the refresh already, with the reason; they said nothing about it."),
			"pending":    computedTexts("What waited for a power-off and start when it ended."),
			"timings_ms": schema.MapAttribute{
				Computed: true, ElementType: types.Float64Type,
				MarkdownDescription: "Milliseconds of each step. Those named `renew` with a unit are parts of `restart` or `roll back`, some at the same time; `come up` is a part of `start`.",
			},
		},
	}
}

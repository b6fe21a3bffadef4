package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/listvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework-validators/stringvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/objectdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringplanmodifier"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Bounds of a VM's size. The upper ones are there to catch a wrong unit.
const (
	maxVCPUs    = 1024
	minMemory   = 128 << 20
	minDiskSize = 64 << 20
)

// Schema implements resource.Resource.
func (r *vmResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "A VM that runs a base, and holds only what is its own on a private disk. A changed base or component is a " +
			"refresh of the running VM, in place: nothing is replaced because an operating system changed.",
		Attributes: map[string]schema.Attribute{
			"name": schema.StringAttribute{
				Required: true,
				MarkdownDescription: "Name of the VM and of its libvirt domain: lower-case letters, digits, dots, underscores and hyphens. " +
					"It is the VM's identity: another name is another VM.",
				Validators:    []validator.String{isName},
				PlanModifiers: []planmodifier.String{stringplanmodifier.RequiresReplace()},
			},
			"base": schema.StringAttribute{
				Required:            true,
				MarkdownDescription: "Id of the base release to run, such as `sharedos_base.debian.release`.",
				Validators:          []validator.String{isRelease},
			},
			"components": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Ids of the component releases to run on the base, in the order in which they are attached.",
				Validators:          []validator.List{listvalidator.UniqueValues(), listvalidator.ValueStringsAre(isRelease)},
			},
			"vcpus": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(1),
				MarkdownDescription: "Virtual CPUs. Default: 1.",
				Validators:          []validator.Int64{int64validator.Between(1, maxVCPUs)},
			},
			"memory": schema.StringAttribute{
				Required: true, CustomType: sizeType{},
				MarkdownDescription: "Memory, such as `512MiB`: a whole number with one of the units B, KiB, MiB, GiB and TiB. At least 128MiB.",
				Validators:          []validator.String{sizeAtLeast(minMemory)},
			},
			"disk": schema.SingleNestedAttribute{
				Required:            true,
				MarkdownDescription: "The private disk: all that is the VM's own and nothing that is the OS's. It takes space on the host only as it fills.",
				Attributes: map[string]schema.Attribute{
					"size": schema.StringAttribute{
						Required: true, CustomType: sizeType{},
						MarkdownDescription: "Size, such as `4GiB`. It can grow, and never shrink. At least 64MiB.",
						Validators:          []validator.String{sizeAtLeast(minDiskSize)},
					},
				},
			},
			"hostname": schema.StringAttribute{
				Optional: true, Computed: true,
				MarkdownDescription: "Host name in the guest. Default: `name`.",
				Validators:          []validator.String{isHostname},
			},
			"ssh_authorized_keys": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "OpenSSH public keys that may log in as root.",
				Validators:          []validator.List{listvalidator.ValueStringsAre(isAuthorizedKey)},
			},
			"interfaces": interfacesAttribute(),
			"running": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "Whether the VM is to run. Default: true.",
			},
			"refresh":      refreshAttribute(),
			"uuid":         schema.StringAttribute{Computed: true, MarkdownDescription: "UUID of the libvirt domain; the guest's machine-id too."},
			"state":        schema.StringAttribute{Computed: true, MarkdownDescription: "State of the domain as last read: `running`, `off`, `paused` or `crashed`."},
			"stack":        stackAttribute(),
			"agent":        agentAttribute(),
			"impact":       impactAttribute(),
			"last_refresh": lastRefreshAttribute(),
			"pending": schema.ListAttribute{
				Computed: true, ElementType: types.StringType,
				MarkdownDescription: "What waits until the VM is powered off and started, such as `kernel 6.12.88 → 6.12.101 at the next power-off and start`: " +
					"a new kernel under a strategy below `kexec`, or a stack that takes more than the strategy reaches. " +
					"A reboot from within goes on with the kernel that the VM was started with.",
			},
			"held_layers": heldLayersAttribute(),
			"timeouts":    timeoutsAttribute(ctx, vmWriteTimeout),
		},
	}
}

func interfacesAttribute() schema.Attribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Network interfaces by a name of your own; the name gives the interface its address, so that others can come and go " +
			"around it. Each has exactly one of `user`, `bridge` and `network`.",
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"user": schema.SingleNestedAttribute{
				Optional:            true,
				MarkdownDescription: "QEMU's user-mode network: the guest reaches out, and is reached on 127.0.0.1 of the host alone.",
				Attributes: map[string]schema.Attribute{
					"forwards": schema.MapAttribute{
						Optional: true, ElementType: types.Int64Type,
						MarkdownDescription: "TCP ports of the guest by port on the host's 127.0.0.1: `{ \"8080\" = 80 }`.",
						Validators: []validator.Map{
							mapvalidator.KeysAre(isPort), mapvalidator.ValueInt64sAre(int64validator.Between(1, 65535)),
						},
					},
				},
			},
			"bridge": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of a bridge of the host.",
				Validators:          []validator.String{stringvalidator.LengthBetween(1, 15)},
			},
			"network": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of a libvirt network.",
				Validators:          []validator.String{stringvalidator.LengthAtLeast(1)},
			},
		}},
	}
}

func unitsAttribute() schema.Attribute {
	return schema.MapNestedAttribute{
		Optional:            true,
		MarkdownDescription: "What is particular to single units, by their names: `{ \"nginx.service\" = { policy = \"reload\" } }`.",
		Validators:          []validator.Map{mapvalidator.KeysAre(isUnit)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"policy": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "As `refresh.policy`, for this unit alone.",
				Validators:          []validator.String{stringvalidator.OneOf(policyRestart, policyReload, policyReport)},
			},
			"paths": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Files that the unit uses and that its processes do not show: data that it reads and closes, code that it loads " +
					"later. When one of them changes, the unit is affected. A path that ends in `/` means all that is below it; if all that changed " +
					"lies below `/etc`, a reload is enough.",
				Validators: []validator.List{listvalidator.SizeAtLeast(1), listvalidator.ValueStringsAre(isAbsolutePath)},
			},
		}},
	}
}

func refreshAttribute() schema.Attribute {
	return schema.SingleNestedAttribute{
		Optional: true, Computed: true,
		Default:             objectdefault.StaticValue(defaultRefresh()),
		MarkdownDescription: "How the VM may be moved to another base or other components.",
		Attributes: map[string]schema.Attribute{
			"strategy": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(vm.Live),
				MarkdownDescription: "The highest rung that a changed base or component may climb; the lowest that does what is needed is climbed. " +
					"`live`: `/usr` is swapped and units that use what changed are restarted. `soft_reboot`: the userland is started anew under the " +
					"kernel that runs, for what no swap makes whole, such as another dynamic loader or message bus. `kexec`: a new kernel is started " +
					"from the one that runs. `reboot`: the VM is powered off and started with it. Under `live` and `soft_reboot` a new kernel waits, " +
					"and `pending` tells it. `next_boot`: nothing is done until the VM is next powered off and started, which is also the way to " +
					"another base or back to an earlier release; what lies above the strategy waits in the same way. Default: `live`.",
				Validators: []validator.String{stringvalidator.OneOf(strategies...)},
			},
			"max_impact": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(defaultMaxImpact),
				MarkdownDescription: "The most that a change may interrupt: `none`, `reload`, `restart`, `soft_reboot`, `kexec` or `reboot`. " +
					"A larger impact fails the plan, with the reasons. Processors, memory and interfaces change only with `reboot`, " +
					"whatever the strategy is. Default: `restart`.",
				Validators: []validator.String{stringvalidator.OneOf(allowances()...)},
			},
			"settle": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(defaultSettle),
				MarkdownDescription: "How long health has to hold before a refresh is committed, at most `10m`. Default: `5s`.",
				Validators:          []validator.String{isDuration},
			},
			"restart_timeout": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "How long one unit may take to stop and start again, from `1s` to `20m`. When it takes longer, the VM goes back " +
					"to what it ran, which takes the time that it needs; the unit is started when systemd has it ended. Without it a unit may take as long as its own " +
					"`TimeoutStopSec=` and `TimeoutStartSec=` allow, four minutes if they are short or without end.",
				Validators: []validator.String{isRestartTimeout},
			},
			"policy": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(policyRestart),
				MarkdownDescription: "What may be done with services that use what changes. `restart`: they are restarted, or reloaded where that is " +
					"enough. `reload`: those that can be reloaded are, and the others are left alone. `report`: all are left alone. What is left " +
					"is in `impact.left` and `last_refresh.left`, and runs old code until you restart it. Default: `restart`.",
				Validators: []validator.String{stringvalidator.OneOf(policyRestart, policyReload, policyReport)},
			},
			"units": unitsAttribute(),
			"health_checks": schema.MapNestedAttribute{
				Optional: true,
				MarkdownDescription: "Checks by a name of your own. When one fails after a refresh, the VM goes back to what it ran. " +
					"Each has exactly one of `unit`, `http`, `tcp` and `command`.",
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"unit": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "A systemd unit that must be active.",
						Validators:          []validator.String{stringvalidator.LengthAtLeast(1)},
					},
					"http": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "A URL on the guest's loopback that must answer with a status below 400.",
						Validators:          []validator.String{isLoopbackURL},
					},
					"tcp": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "`host:port` that must accept a connection from within the guest.",
						Validators:          []validator.String{stringvalidator.LengthAtLeast(1)},
					},
					"command": schema.ListAttribute{
						Optional: true, ElementType: types.StringType,
						MarkdownDescription: "A command that must exit 0 in the guest, with its arguments; there is no shell.",
						Validators:          []validator.List{listvalidator.SizeAtLeast(1)},
					},
					"timeout": schema.StringAttribute{
						Optional: true, Computed: true, Default: stringdefault.StaticString(defaultCheckTimeout),
						MarkdownDescription: "How long the check may take to succeed, at most `10m`. Default: `30s`.",
						Validators:          []validator.String{isDuration},
					},
				}},
			},
		},
	}
}

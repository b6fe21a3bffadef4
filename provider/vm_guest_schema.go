package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/planmodifier"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

var asIs = basetypes.ObjectAsOptions{}

// Rules for the names and values of the configuration of a guest.
var (
	isGuestPath = textRule{form: "an absolute path below a directory of the VM, such as /etc/motd",
		check: guestconfig.CheckPath}
	isGuestUnit    = textRule{form: "the name of a unit, such as nginx.service", check: guestconfig.CheckUnit}
	isGuestAccount = textRule{form: "the name of an account, such as alice", check: guestconfig.CheckAccount}
	isOwner        = textRule{form: "the name or the number of an account", check: guestconfig.CheckOwner}
	isSysctl       = textRule{form: "the name of a kernel parameter, such as net.ipv4.ip_forward",
		check: guestconfig.CheckSysctl}
	isTimeZone   = textRule{form: "the name of a time zone, such as Europe/Berlin", check: guestconfig.CheckTimeZone}
	isLocale     = textRule{form: "the name of a locale, such as en_US.UTF-8", check: guestconfig.CheckLocale}
	takenOnLive  = "A change is live. "
	overwriteDoc = "What somebody has changed in the guest since is in `configuration_drift`, and an apply of the plan that shows it overwrites it."
)

func filesAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Files in the guest, by absolute path below /etc, /var, /srv, /opt, /usr/local, /root or /home. " + takenOnLive +
			"A file that the stack has is overridden, also when a refresh brings another version of it, and comes back when it is removed here. Any other file that exists already is refused. " +
			overwriteDoc + " Directories that do not exist are made for root with mode 0755.",
		Validators: []validator.Map{mapvalidator.KeysAre(isGuestPath)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"content": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Content as a text. Exactly one of `content`, `content_base64` and `content_wo` is set. " + takenOnLive},
			"content_base64": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Content as base64, for what is not UTF-8: `filebase64(\"logo.png\")`. " +
					takenOnLive},
			"content_wo": schema.StringAttribute{
				Optional: true, WriteOnly: true,
				MarkdownDescription: "Content that is a secret: it is in no plan and no state, and only the guest " +
					"has it, in this file. It needs Terraform 1.11. It is given to the guest when " +
					"`content_wo_version` changes.",
			},
			"content_wo_version": schema.Int64Attribute{
				Optional: true, MarkdownDescription: "Version of `content_wo`: another number writes it again. " +
					takenOnLive,
				Validators: []validator.Int64{int64validator.AtLeast(0)},
			},
			"mode": schema.StringAttribute{
				Optional: true, Computed: true, Validators: []validator.String{isMode},
				PlanModifiers:       []planmodifier.String{modeOfContent{}},
				MarkdownDescription: "Permissions as an octal number. Default: `0644`, and `0600` with `content_wo`, which must not be accessible for everybody. " + takenOnLive,
			},
			"owner": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(defaultOwner),
				Validators:          []validator.String{isOwner},
				MarkdownDescription: "Owner: a name in the guest, which `users` may make, or a number. Default: `root`. " + takenOnLive,
			},
			"group": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(defaultOwner),
				Validators:          []validator.String{isOwner},
				MarkdownDescription: "Group: a name in the guest or a number. Default: `root`. " + takenOnLive,
			},
			"restart": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Units that are restarted, if they run, when the file changes. Units that have " +
					"it open or name it in their unit file are found without this. A change of the list alone " +
					"restarts nothing.",
			},
			"reload": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Units that are reloaded, if they run and can be reloaded, when the file changes. A change of the list alone reloads nothing.",
			},
		}},
	}
}

func unitsAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Units of systemd, by name. " + takenOnLive +
			"A unit whose file or drop-ins change is restarted if it runs. When one is removed " +
			"here, its files are removed in the guest, and it is enabled and started as it was before. " + overwriteDoc,
		Validators: []validator.Map{mapvalidator.KeysAre(isGuestUnit)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"content": schema.StringAttribute{Optional: true,
				MarkdownDescription: "Unit file (systemd.unit(5)). Without it the unit is one that the stack has. " +
					takenOnLive},
			"drop_ins": schema.MapAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Drop-in files, by name: `{ \"limits.conf\" = \"[Service]\\nLimitNOFILE=65536\\n\" }`. " + takenOnLive,
			},
			"enabled": schema.BoolAttribute{Optional: true,
				MarkdownDescription: "Whether the unit is enabled, so that boots start it. Default: as the guest has it. " + takenOnLive},
			"started": schema.BoolAttribute{
				Optional: true,
				MarkdownDescription: "Whether the unit runs: an apply starts or stops it. Set `enabled`, too, to have boots start it. Default: as the guest has it. " + takenOnLive +
					"If it cannot be started, the whole change of the configuration is taken back.",
			},
		}},
	}
}

func usersAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Accounts, by name, made by systemd-sysusers without a password. " + takenOnLive +
			"An account that exists already is refused. " +
			"When one is removed here, it is removed in the guest, and its files are kept.",
		Validators: []validator.Map{mapvalidator.KeysAre(isGuestAccount)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"uid": schema.Int64Attribute{
				Optional: true, Validators: []validator.Int64{int64validator.Between(1, 65533)},
				MarkdownDescription: "Number of the account. Default: one that systemd-sysusers chooses. It counts when the account is made.",
			},
			"home": schema.StringAttribute{
				Optional: true, Computed: true, PlanModifiers: []planmodifier.String{homeOfUser{}},
				Validators:          []validator.String{isAbsolutePath},
				MarkdownDescription: "Home directory, which is made with mode 0700. One that has files of somebody else is refused. Default: `/home/` and the name. It counts when the account is made.",
			},
			"shell": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(defaultShell),
				Validators:          []validator.String{isAbsolutePath},
				MarkdownDescription: "Login shell. Default: `/bin/bash`. It counts when the account is made.",
			},
			"groups": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "Further groups. Those that do not exist are made. One that is added is live; one that is removed is kept in the guest.",
			},
			"ssh_authorized_keys": schema.ListAttribute{
				Optional: true, ElementType: types.StringType,
				MarkdownDescription: "OpenSSH public keys that may log in. " + takenOnLive +
					"Further keys in the account's `authorized_keys` file are kept.",
			},
			"sudo": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Whether the account may run every command as root by sudo, without a password. The stack needs sudo for it. Default: false. " + takenOnLive,
			},
		}},
	}
}

var (
	fileType = types.ObjectType{AttrTypes: typesOf(filesAttribute().NestedObject.Attributes)}
	unitType = types.ObjectType{AttrTypes: typesOf(unitsAttribute().NestedObject.Attributes)}
	userType = types.ObjectType{AttrTypes: typesOf(usersAttribute().NestedObject.Attributes)}
)

func (*vmGuest) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"files": filesAttribute(), "units": unitsAttribute(), "users": usersAttribute(),
		"networks": networksAttribute(),
		"sysctl": schema.MapAttribute{
			Optional: true, ElementType: types.StringType, Validators: []validator.Map{mapvalidator.KeysAre(isSysctl)},
			MarkdownDescription: "Kernel parameters, by name: `{ \"net.ipv4.ip_forward\" = \"1\" }`. " + takenOnLive +
				"They are set at boots, too. One that is removed here gets the value again that it had before.",
		},
		"swap": schema.StringAttribute{
			Optional: true, CustomType: sizeType{}, Validators: []validator.String{sizeAtLeast(guestconfig.MinSwap)},
			MarkdownDescription: "Size of a swap file on the private disk, such as `1GiB`: whole MiB. " + takenOnLive +
				"It is made anew when the size changes, and removed when it is removed here. That is refused if what " +
				"is in it does not fit into the memory, and a larger one is refused if the private disk has no room " +
				"for it. Default: no swap file.",
		},
		"time_zone": schema.StringAttribute{
			Optional: true, Validators: []validator.String{isTimeZone},
			MarkdownDescription: "Time zone, such as `Europe/Berlin`. The stack needs tzdata. " + takenOnLive +
				"A program that has read the old one keeps it until it is started again. Default: the stack's.",
		},
		"locale": schema.StringAttribute{
			Optional: true, Validators: []validator.String{isLocale},
			MarkdownDescription: "Locale (LANG in /etc/locale.conf), such as `C.UTF-8`. It is written live, and services get it at the next boot. Default: the stack's.",
		},
		"configuration_drift": schema.MapAttribute{
			Computed: true, ElementType: types.StringType,
			MarkdownDescription: "What somebody has changed in the guest of `files`, `units`, `users` and the settings, by path or by name, with what differs. " +
				"The plan shows it, and the apply overwrites it. Null while the agent does not answer.",
		},
	}
}

// isMode accepts the permissions of a file.
var isMode = textRule{form: `an octal number of three or four digits, such as "0644"`, check: func(text string) error {
	if len(text) < 3 || len(text) > 4 || len(text) == 4 && text[0] != '0' {
		return errForm
	}
	for _, digit := range text {
		if digit < '0' || digit > '7' {
			return errForm
		}
	}
	return nil
}}

// modeOfContent plans the mode of a file that is not configured: secrets are for their owner alone.
type modeOfContent struct{}

func (modeOfContent) Description(context.Context) string { return "0600 for a secret, 0644 otherwise" }

func (m modeOfContent) MarkdownDescription(ctx context.Context) string { return m.Description(ctx) }

func (modeOfContent) PlanModifyString(ctx context.Context, req planmodifier.StringRequest,
	resp *planmodifier.StringResponse) {
	if !req.ConfigValue.IsNull() {
		return
	}
	var version types.Int64
	resp.Diagnostics.Append(req.Config.GetAttribute(ctx,
		req.Path.ParentPath().AtName("content_wo_version"), &version)...)
	if resp.PlanValue = types.StringValue(defaultMode); !version.IsNull() {
		resp.PlanValue = types.StringValue(defaultSecretMode)
	}
}

// homeOfUser plans the home of a user that is not configured.
type homeOfUser struct{}

func (homeOfUser) Description(context.Context) string { return "/home/ and the name" }

func (m homeOfUser) MarkdownDescription(ctx context.Context) string { return m.Description(ctx) }

func (homeOfUser) PlanModifyString(_ context.Context, req planmodifier.StringRequest,
	resp *planmodifier.StringResponse) {
	if req.ConfigValue.IsNull() {
		resp.PlanValue = types.StringValue(homes + keyOf(req.Path))
	}
}

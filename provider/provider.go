package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/provider/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
)

// Address is the provider's name in a registry.
const Address = "registry.terraform.io/sharedos/sharedos"

// Environment variables that replace absent attributes of the provider block.
const (
	envURI         = "SHAREDOS_URI"
	envLibvirtURI  = "LIBVIRT_DEFAULT_URI"
	envPool        = "SHAREDOS_POOL"
	envPoolPath    = "SHAREDOS_POOL_PATH"
	envOperatorKey = "SHAREDOS_OPERATOR_KEY"
	envCache       = "SHAREDOS_CACHE"
)

// Provider is the provider sharedos/sharedos.
type Provider struct {
	version    string
	connection *connection
	// calls is how many calls of Terraform are being served.
	calls atomic.Int64
}

var _ provider.Provider = (*Provider)(nil)

// New returns a provider that works on the host that open connects to. The caller closes it after serving it.
func New(version string, open Open) *Provider {
	return &Provider{version: version, connection: &connection{open: open}}
}

// Close closes the connection to the host, if there is one. Call it when Terraform has ended the provider, and
// not when Terraform has died: Close records, where that is certain by then, that a state has what was made.
func (p *Provider) Close() error { return p.connection.close() }

// Idle reports whether no call of Terraform is being served, and no connection to a guest is still being closed.
func (p *Provider) Idle() bool { return p.calls.Load() == 0 && !p.connection.closing() }

// Interrupt ends the builds of plans that are running. Call it when the user presses Ctrl-C: Terraform itself does not
// stop the plan of an apply. Applies are not affected.
func (p *Provider) Interrupt() { p.connection.interrupt() }

// Metadata implements provider.Provider.
func (p *Provider) Metadata(_ context.Context, _ provider.MetadataRequest, resp *provider.MetadataResponse) {
	resp.TypeName = "sharedos"
	resp.Version = p.version
}

// Schema implements provider.Provider.
func (p *Provider) Schema(_ context.Context, _ provider.SchemaRequest, resp *provider.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "Keeps one read-only operating system on a libvirt host that all VMs share. Patches " +
			"reach running VMs by a remount instead of a reinstallation or a reboot.",
		Attributes: map[string]schema.Attribute{
			"uri": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "URI of libvirt. Default: the environment variable `" + envURI + "`, then `" +
					envLibvirtURI + "`, then `qemu:///system`.",
			},
			"pool": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Name of the libvirt storage pool that holds layers, manifests and private " +
					"disks. A directory pool of this name is created if there is none. Default: `" +
					envPool + "`, then `sharedos`.",
			},
			"pool_path": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Directory of the pool, used only if the pool has to be created. Default: `" +
					envPoolPath + "`, then `pool` in the directory of the environment variable `SHAREDOS_STATE_DIR`, " +
					"which also holds console logs and defaults to `/var/lib/sharedos` for root. The pool is " +
					"deleted together with the last base in it.",
			},
			"operator_key": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Path of the operator's Ed25519 key, a PKCS#8 PEM file of mode 0600. It signs " +
					"releases and authenticates the provider to the agents in the VMs. It is created on first use " +
					"and is never in state: protect it like an SSH key. Default: `" +
					envOperatorKey + "`, then `sharedos/operator.key` under the user's configuration directory.",
			},
			"cache": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "Directory on this machine for downloads and for operating systems that were " +
					"built. It can be removed at any time. Default: `" + envCache +
					"`, then `sharedos` under the user's cache directory.",
			},
			"build_at_plan": schema.BoolAttribute{
				Optional: true,
				MarkdownDescription: "Whether a plan builds the releases that it is about, and the layers that VMs " +
					"need which are made from components, into `cache`. The apply uses what the plan has built. " +
					"Nothing on the host changes while planning. With `false`, a plan does not know a release that " +
					"the cache does not have: not what it changes and not what it interrupts, nor whether components " +
					"of a VM go together, and `refresh.max_impact` of the VMs is only checked during the apply, VM " +
					"by VM. The plan warns of that. Default: `true`.",
			},
			"max_layers": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: "Maximum number of layers of a release: a full layer and the deltas on top of " +
					"it. When it is reached, the next release is a full layer again; `deltas_left` of a base counts " +
					"down to it. " + fmt.Sprintf("1 to %d; default: %d.", publish.MostChain, publish.DefaultMaxChain),
				Validators: []validator.Int64{int64validator.Between(1, publish.MostChain)},
			},
			"max_delta_percent": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: "Maximum size of a delta, in percent of the content of the whole release. A " +
					"larger change is stored as a full layer. " +
					fmt.Sprintf("1 to 100; default: %d.", publish.DefaultMaxDelta),
				Validators: []validator.Int64{int64validator.Between(1, 100)},
			},
		},
	}
}

type providerModel struct {
	URI         types.String `tfsdk:"uri"`
	Pool        types.String `tfsdk:"pool"`
	PoolPath    types.String `tfsdk:"pool_path"`
	OperatorKey types.String `tfsdk:"operator_key"`
	Cache       types.String `tfsdk:"cache"`
	BuildAtPlan types.Bool   `tfsdk:"build_at_plan"`

	MaxLayers       types.Int64 `tfsdk:"max_layers"`
	MaxDeltaPercent types.Int64 `tfsdk:"max_delta_percent"`
}

// Configure implements provider.Provider. The connection to the host is opened later, by the first resource that needs
// it.
func (p *Provider) Configure(ctx context.Context, req provider.ConfigureRequest, resp *provider.ConfigureResponse) {
	var model providerModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &model)...)
	if resp.Diagnostics.HasError() {
		return
	}
	config, unknown, diags := model.config()
	resp.Diagnostics.Append(diags...)
	if resp.Diagnostics.HasError() {
		return
	}
	if _, err := os.Stat(config.OperatorKey); config.OperatorKey != "" && errors.Is(err, fs.ErrNotExist) {
		resp.Diagnostics.AddAttributeWarning(path.Root("operator_key"), "There is no operator key yet",
			"There is none at "+config.OperatorKey+
				". A new one is made, unless the storage pool holds releases that another one has signed. If you had "+
				"one, put it there from a backup before you go on, or set operator_key to the file that holds it: "+
				"VMs that were made with it do not know a new one. Keep a backup of the new one.")
	}
	if err := p.connection.configure(config, unknown); err != nil {
		resp.Diagnostics.AddWarning("Unable to close the earlier connection to the host", sentence(err))
	}
	resp.ResourceData = p.connection
	resp.DataSourceData = p.connection
	resp.EphemeralResourceData = p.connection
	resp.ActionData = p.connection
	resp.ListResourceData = p.connection
}

// DefaultConfig is what an empty provider block means, with the environment variables that it reads.
func DefaultConfig() (Config, error) {
	config, _, diags := providerModel{}.config()
	for _, problem := range diags.Errors() {
		return config, fmt.Errorf("%s: %s", problem.Summary(), problem.Detail())
	}
	return config, nil
}

// config applies the defaults. It also returns the names of the attributes that are still unknown.
func (m providerModel) config() (Config, []string, diag.Diagnostics) {
	var diags diag.Diagnostics
	var unknown []string
	choose := func(name string, value types.String, otherwise ...string) string {
		switch {
		case value.IsUnknown():
			unknown = append(unknown, name)
			return ""
		case value.ValueString() != "":
			return value.ValueString()
		}
		for _, variable := range otherwise {
			if text := os.Getenv(variable); text != "" {
				return text
			}
		}
		return ""
	}
	under := func(name, chosen, variable string, home func() (string, error), relative string) string {
		if chosen != "" || len(unknown) > 0 && unknown[len(unknown)-1] == name {
			return chosen
		}
		dir, err := home()
		if err != nil {
			diags.AddAttributeError(path.Root(name),
				fmt.Sprintf("Unable to choose a default for the provider's %s", name),
				fmt.Sprintf("%s\n\nSet %s in the provider block, or the environment variable %s.",
					sentence(err), name, variable))
			return ""
		}
		return filepath.Join(dir, relative)
	}
	var c Config
	if c.URI = choose("uri", m.URI, envURI, envLibvirtURI); c.URI == "" {
		c.URI = "qemu:///system"
	}
	if c.Pool = choose("pool", m.Pool, envPool); c.Pool == "" {
		c.Pool = "sharedos"
	}
	c.PoolPath = choose("pool_path", m.PoolPath, envPoolPath)
	c.OperatorKey = choose("operator_key", m.OperatorKey, envOperatorKey)
	c.OperatorKey = under("operator_key", c.OperatorKey, envOperatorKey, os.UserConfigDir, "sharedos/operator.key")
	c.Cache = choose("cache", m.Cache, envCache)
	c.Cache = under("cache", c.Cache, envCache, os.UserCacheDir, "sharedos")
	for name, value := range map[string]string{"pool_path": c.PoolPath,
		"operator_key": c.OperatorKey, "cache": c.Cache} {
		if err := isLocalPath.check(value); value != "" && err != nil {
			diags.Append(failedAt(path.Root(name), failure{
				do: "use", object: "the value of the provider's " + name, err: err,
				next: "It must be " + isLocalPath.form + ".",
			})...)
		}
	}
	number := func(name string, value types.Int64, otherwise int) int {
		if value.IsUnknown() {
			unknown = append(unknown, name)
		}
		if value.IsNull() || value.IsUnknown() {
			return otherwise
		}
		return int(value.ValueInt64())
	}
	if m.BuildAtPlan.IsUnknown() {
		unknown = append(unknown, "build_at_plan")
	}
	c.BuildAtPlan = m.BuildAtPlan.IsNull() || m.BuildAtPlan.ValueBool()
	c.MaxLayers = number("max_layers", m.MaxLayers, publish.DefaultMaxChain)
	c.MaxDeltaPercent = number("max_delta_percent", m.MaxDeltaPercent, publish.DefaultMaxDelta)
	return c, unknown, diags
}

// Resources implements provider.Provider.
func (p *Provider) Resources(context.Context) []func() resource.Resource {
	return []func() resource.Resource{
		func() resource.Resource { return newBaseResource() },
		func() resource.Resource { return newComponentResource() },
		func() resource.Resource { return &vmResource{} },
		func() resource.Resource { return &rolloutResource{} },
	}
}

// DataSources implements provider.Provider.
func (p *Provider) DataSources(context.Context) []func() datasource.DataSource {
	return []func() datasource.DataSource{
		func() datasource.DataSource { return newBaseDataSource() },
		func() datasource.DataSource { return newComponentDataSource() },
		func() datasource.DataSource { return &poolUsageDataSource{} },
		func() datasource.DataSource { return &verifyDataSource{} },
		func() datasource.DataSource { return &vmDataSource{} },
		func() datasource.DataSource { return &vmsDataSource{} },
		func() datasource.DataSource { return &hostDataSource{} },
	}
}

// connected is embedded by resources. It holds the connection that Configure has set up.
type connected struct {
	connection *connection
}

func (c *connected) set(data any, diags *diag.Diagnostics) {
	if data == nil {
		return // validation runs before the provider is configured
	}
	connection, ok := data.(*connection)
	if !ok {
		diags.AddError("Unable to use the provider's configuration",
			fmt.Sprintf("It is a %T. This is a bug in the provider: please report it.", data))
		return
	}
	c.connection = connection
}

// Configure implements resource.ResourceWithConfigure.
func (c *connected) Configure(_ context.Context, req resource.ConfigureRequest, resp *resource.ConfigureResponse) {
	c.set(req.ProviderData, &resp.Diagnostics)
}

// connectedData is connected for data sources.
type connectedData struct{ connected }

// Configure implements datasource.DataSourceWithConfigure.
func (c *connectedData) Configure(_ context.Context, req datasource.ConfigureRequest,
	resp *datasource.ConfigureResponse) {
	c.set(req.ProviderData, &resp.Diagnostics)
}

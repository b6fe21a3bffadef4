package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"
	resource "github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
)

// hostDataSource is data.sharedos_host: what the host is, what it has room for, and what it lacks.
type hostDataSource struct{ connectedData }

var _ datasource.DataSourceWithConfigure = (*hostDataSource)(nil)

// Metadata implements datasource.DataSource.
func (d *hostDataSource) Metadata(_ context.Context, req datasource.MetadataRequest,
	resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_host"
}

// hostModel is data.sharedos_host.
type hostModel struct {
	URI            string         `tfsdk:"uri"`
	LibvirtVersion string         `tfsdk:"libvirt_version"`
	QEMUVersion    string         `tfsdk:"qemu_version"`
	Acceleration   string         `tfsdk:"acceleration"`
	VSock          types.String   `tfsdk:"vsock"`
	Processors     int64          `tfsdk:"processors"`
	MaxVCPUs       int64          `tfsdk:"max_vcpus"`
	MemoryBytes    int64          `tfsdk:"memory_bytes"`
	Pool           hostPoolModel  `tfsdk:"pool"`
	Missing        []missingModel `tfsdk:"missing"`
	AutostartWorks bool           `tfsdk:"autostart_works"`
}

type hostPoolModel struct {
	Name           string       `tfsdk:"name"`
	Exists         bool         `tfsdk:"exists"`
	Directory      types.String `tfsdk:"directory"`
	CapacityBytes  types.Int64  `tfsdk:"capacity_bytes"`
	AvailableBytes types.Int64  `tfsdk:"available_bytes"`
}

type missingModel struct {
	Name      string `tfsdk:"name"`
	NeededFor string `tfsdk:"needed_for"`
	Install   string `tfsdk:"install"`
}

// Acceleration of the guests.
const (
	accelerationKVM = "kvm"
	accelerationTCG = "tcg"
)

// Schema implements datasource.DataSource.
func (d *hostDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	resp.Schema = schema.Schema{
		MarkdownDescription: "The host of the VMs: its versions, what it has room for, and what it lacks.",
		Attributes: computedData(map[string]resource.Attribute{
			"uri":             computedText("URI of libvirt."),
			"libvirt_version": computedText("Version of libvirt, such as `11.3.0`."),
			"qemu_version":    computedText("Version of QEMU, such as `10.0.2`."),
			"acceleration": computedText(
				"`kvm` if the processors of the host run the guests, and `tcg` if QEMU emulates them, which is many times " +
					"slower."),
			"vsock": computedText(
				"How the agents are reached: `vhost-vsock` by the kernel of the host, `vhost-user` by a daemon for each VM. " +
					"Null if the host has neither, so that VMs do not start."),
			"processors":   computedNumber("Number of processors of the host."),
			"max_vcpus":    computedNumber("The largest number of virtual CPUs that a VM can have."),
			"memory_bytes": computedNumber("Memory of the host in bytes."),
			"autostart_works": computedBool(
				"Whether `autostart` of a VM has an effect: a host without `/dev/vhost-vsock` needs a hook of " +
					"libvirt for it."),
			"pool": resource.SingleNestedAttribute{
				Computed: true, MarkdownDescription: "The storage pool of the provider.",
				Attributes: map[string]resource.Attribute{
					"name":   computedText("Name of the pool."),
					"exists": computedBool("Whether the pool exists. The first base makes it."),
					"directory": computedText(
						"Directory of the pool, existing or to be made; null for a pool that has none, such as one of LVM or Ceph."),
					"capacity_bytes": computedNumber("Size of the pool in bytes; null if it does not exist yet."),
					"available_bytes": computedNumber(
						"Free space of the pool in bytes; null if it does not exist yet."),
				},
			},
			"missing": resource.ListNestedAttribute{
				Computed: true, MarkdownDescription: "What the host, or for building this machine, lacks; empty if nothing.",
				NestedObject: resource.NestedAttributeObject{Attributes: map[string]resource.Attribute{
					"name":       computedText("Name of a device, program or file."),
					"needed_for": computedText("What does not work without it, or not well."),
					"install":    computedText("How to get it."),
				}},
			},
		}),
	}
}

// Read implements datasource.DataSource.
func (d *hostDataSource) Read(ctx context.Context, _ datasource.ReadRequest, resp *datasource.ReadResponse) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	backend, err := d.connection.get(ctx)
	var facts host.Facts
	if err == nil {
		facts, err = backend.Facts(ctx)
	}
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "read", object: "what the host is", err: err})...)
		return
	}
	model := hostModel{
		URI: facts.URI, LibvirtVersion: facts.Libvirt, QEMUVersion: facts.QEMU, Acceleration: accelerationTCG,
		VSock:      types.StringNull(),
		Processors: int64(facts.Limits.Processors), MaxVCPUs: int64(facts.Limits.VCPUs),
		MemoryBytes: facts.Limits.Memory,
		Pool: hostPoolModel{
			Name: facts.Pool, Exists: facts.HasPool, Directory: types.StringNull(), CapacityBytes: types.Int64Null(),
			AvailableBytes: types.Int64Null(),
		},
		Missing: make([]missingModel, len(facts.Missing)), AutostartWorks: facts.StartsAlone,
	}
	if facts.KVM {
		model.Acceleration = accelerationKVM
	}
	if facts.VSock != "" {
		model.VSock = types.StringValue(facts.VSock)
	}
	if facts.Room.Directory != "" {
		model.Pool.Directory = types.StringValue(facts.Room.Directory)
	}
	if facts.HasPool {
		model.Pool.CapacityBytes, model.Pool.AvailableBytes = types.Int64Value(facts.Room.Capacity),
			types.Int64Value(facts.Room.Available)
	}
	for i, one := range facts.Missing {
		model.Missing[i] = missingModel{one.Name, one.NeededFor, one.Install}
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, &model)...)
}

package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// poolUsageDataSource is data.sharedos_pool_usage: how much space sharing saves.
type poolUsageDataSource struct{ connectedData }

var _ datasource.DataSourceWithConfigure = (*poolUsageDataSource)(nil)

// Metadata implements datasource.DataSource.
func (d *poolUsageDataSource) Metadata(_ context.Context, req datasource.MetadataRequest,
	resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_pool_usage"
}

// poolUsageModel is data.sharedos_pool_usage.
type poolUsageModel struct {
	StoredBytes int64               `tfsdk:"stored_bytes"`
	FullBytes   int64               `tfsdk:"full_bytes"`
	SavedBytes  int64               `tfsdk:"saved_bytes"`
	Bases       []baseUsageModel    `tfsdk:"bases"`
	Components  []componentUsage    `tfsdk:"components"`
	Releases    []releaseUsageModel `tfsdk:"releases"`
	VMs         []vmUsageModel      `tfsdk:"vms"`
}

type componentUsage struct {
	Name        string `tfsdk:"name"`
	Releases    int64  `tfsdk:"releases"`
	VMs         int64  `tfsdk:"vms"`
	StoredBytes int64  `tfsdk:"stored_bytes"`
	FullBytes   int64  `tfsdk:"full_bytes"`
}

type baseUsageModel struct {
	Name        string `tfsdk:"name"`
	Releases    int64  `tfsdk:"releases"`
	StoredBytes int64  `tfsdk:"stored_bytes"`
	FullBytes   int64  `tfsdk:"full_bytes"`
}

type releaseUsageModel struct {
	Release     string `tfsdk:"release"`
	Base        string `tfsdk:"base"`
	Sequence    int64  `tfsdk:"sequence"`
	StoredBytes int64  `tfsdk:"stored_bytes"`
	OwnBytes    int64  `tfsdk:"own_bytes"`
	FullBytes   int64  `tfsdk:"full_bytes"`
}

type vmUsageModel struct {
	Name        string  `tfsdk:"name"`
	Release     *string `tfsdk:"release"`
	StoredBytes int64   `tfsdk:"stored_bytes"`
	FullBytes   int64   `tfsdk:"full_bytes"`
}

// Schema implements datasource.DataSource.
func (d *poolUsageDataSource) Schema(_ context.Context, _ datasource.SchemaRequest, resp *datasource.SchemaResponse) {
	number := func(description string) schema.Attribute {
		return schema.Int64Attribute{Computed: true, MarkdownDescription: description}
	}
	text := func(description string) schema.Attribute {
		return schema.StringAttribute{Computed: true, MarkdownDescription: description}
	}
	list := func(description string, attributes map[string]schema.Attribute) schema.Attribute {
		return schema.ListNestedAttribute{
			Computed: true, MarkdownDescription: description,
			NestedObject: schema.NestedAttributeObject{Attributes: attributes},
		}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "Space that the pool takes, and space that it would take if nothing were shared, by " +
			"base, component, release and VM. Stored bytes are those that the pool has allocated.",
		Attributes: map[string]schema.Attribute{
			"stored_bytes": number("Bytes of all volumes in the pool: layers, kernels, manifests and private disks."),
			"full_bytes": number(
				"Bytes that full copies would take: of every release of a base, and for every VM its private disk " +
					"and a copy of its base release and of its components."),
			"saved_bytes": number("`full_bytes` minus `stored_bytes`."),
			"bases": list("Bases, sorted by name.", map[string]schema.Attribute{
				"name":         text("Name of the base."),
				"releases":     number("Number of its releases in the pool."),
				"stored_bytes": number("Bytes of everything that its releases refer to, each counted once."),
				"full_bytes":   number("Bytes of full copies of all its releases."),
			}),
			"components": list("Components, sorted by name.", map[string]schema.Attribute{
				"name":     text("Name of the component."),
				"releases": number("Number of its releases in the pool."),
				"vms": number(
					"Number of VMs that refer to one of its releases, running or not, from any Terraform state."),
				"stored_bytes": number("Bytes of everything that its releases refer to, each counted once."),
				"full_bytes":   number("Bytes of its layers, once for each of these VMs."),
			}),
			"releases": list("Releases of bases, sorted by base, newest first.", map[string]schema.Attribute{
				"release":      text("Id of the release."),
				"base":         text("Name of its base."),
				"sequence":     number("Number of the release, counted from 1."),
				"stored_bytes": number("Bytes of everything that it refers to, shared or not."),
				"own_bytes": number("Bytes that no other release refers to. They become free when the release is " +
					"deleted."),
				"full_bytes": number("Bytes of its files, each rounded up to whole blocks of 4096 bytes."),
			}),
			"vms": list("VMs, sorted by name, from any Terraform state.", map[string]schema.Attribute{
				"name":         text("Name of the VM."),
				"release":      text("Id of the base release that it refers to; null for a private disk without a VM."),
				"stored_bytes": number("Bytes of its private disk."),
				"full_bytes":   number("Bytes of its private disk and of a full copy of its release."),
			}),
		},
	}
}

// Read implements datasource.DataSource.
func (d *poolUsageDataSource) Read(ctx context.Context, _ datasource.ReadRequest, resp *datasource.ReadResponse) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	backend, err := d.connection.get(ctx)
	var usage *publish.Usage
	if err == nil {
		usage, err = backend.Publisher().Usage(ctx, func(ctx context.Context) (map[tree.Digest][]string, error) {
			return backend.VMs().InUse(ctx)
		})
	}
	if err != nil {
		resp.Diagnostics.Append(failed(failure{do: "read", object: "the usage of the pool", err: err})...)
		return
	}
	resp.Diagnostics.Append(resp.State.Set(ctx, usageModel(usage))...)
}

func usageModel(usage *publish.Usage) *poolUsageModel {
	model := &poolUsageModel{
		StoredBytes: usage.Stored, FullBytes: usage.Full, SavedBytes: usage.Full - usage.Stored,
		Bases:      make([]baseUsageModel, len(usage.Bases)),
		Components: make([]componentUsage, len(usage.Components)),
		Releases:   make([]releaseUsageModel, len(usage.Releases)),
		VMs:        make([]vmUsageModel, len(usage.VMs)),
	}
	for i, base := range usage.Bases {
		model.Bases[i] = baseUsageModel{Name: base.Name, Releases: int64(base.Releases),
			StoredBytes: base.Stored, FullBytes: base.Full}
	}
	for i, one := range usage.Components {
		model.Components[i] = componentUsage{
			Name: one.Name, Releases: int64(one.Releases), VMs: int64(one.VMs),
			StoredBytes: one.Stored, FullBytes: one.Full,
		}
	}
	for i, one := range usage.Releases {
		model.Releases[i] = releaseUsageModel{
			Release: one.ID.String(), Base: one.Base, Sequence: int64(one.Sequence),
			StoredBytes: one.Stored, OwnBytes: one.Own, FullBytes: one.Full,
		}
	}
	for i, vm := range usage.VMs {
		model.VMs[i] = vmUsageModel{Name: vm.Name, StoredBytes: vm.Stored, FullBytes: vm.Full}
		if !vm.Release.IsZero() {
			id := vm.Release.String()
			model.VMs[i].Release = &id
		}
	}
	return model
}

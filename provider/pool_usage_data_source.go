package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	"github.com/hashicorp/terraform-plugin-framework/datasource/schema"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// poolUsageDataSource is data.sharedos_pool_usage: what sharing saves, as numbers.
type poolUsageDataSource struct{ connectedData }

var _ datasource.DataSourceWithConfigure = (*poolUsageDataSource)(nil)

// Metadata implements datasource.DataSource.
func (d *poolUsageDataSource) Metadata(_ context.Context, req datasource.MetadataRequest, resp *datasource.MetadataResponse) {
	resp.TypeName = req.ProviderTypeName + "_pool_usage"
}

// poolUsageModel is data.sharedos_pool_usage.
type poolUsageModel struct {
	StoredBytes int64               `tfsdk:"stored_bytes"`
	FullBytes   int64               `tfsdk:"full_bytes"`
	SavedBytes  int64               `tfsdk:"saved_bytes"`
	Bases       []baseUsageModel    `tfsdk:"bases"`
	Releases    []releaseUsageModel `tfsdk:"releases"`
	VMs         []vmUsageModel      `tfsdk:"vms"`
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
			Computed: true, MarkdownDescription: description, NestedObject: schema.NestedAttributeObject{Attributes: attributes},
		}
	}
	resp.Schema = schema.Schema{
		MarkdownDescription: "What the pool holds, and what it would hold if nothing were shared, by base, release and VM. " +
			"Stored bytes are what the pool has allocated.",
		Attributes: map[string]schema.Attribute{
			"stored_bytes": number("Bytes that all volumes of the pool take: layers, kernels, manifests and private disks."),
			"full_bytes":   number("Bytes that full copies would take: every release in full, and for every VM a copy of its release and its private disk."),
			"saved_bytes":  number("`full_bytes` less `stored_bytes`."),
			"bases": list("Bases, by name.", map[string]schema.Attribute{
				"name":         text("Name of the base."),
				"releases":     number("How many releases the pool keeps of it."),
				"stored_bytes": number("Bytes of all that its releases refer to, each counted once."),
				"full_bytes":   number("Bytes of every release in full."),
			}),
			"releases": list("Releases, newest first, by base.", map[string]schema.Attribute{
				"release":      text("Id of the release."),
				"base":         text("Name of its base."),
				"sequence":     number("Number of the release, from 1."),
				"stored_bytes": number("Bytes of all that it refers to, shared or not."),
				"own_bytes":    number("Bytes of what no other release refers to: these are free when it is gone."),
				"full_bytes":   number("Bytes of its files, each in whole blocks of 4096 bytes."),
			}),
			"vms": list("VMs, by name, from whatever Terraform state.", map[string]schema.Attribute{
				"name":         text("Name of the VM."),
				"release":      text("Id of the base release that it refers to; null for a private disk without a VM."),
				"stored_bytes": number("Bytes that its private disk takes."),
				"full_bytes":   number("Bytes that its private disk and a copy of its release would take."),
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
		Bases:    make([]baseUsageModel, len(usage.Bases)),
		Releases: make([]releaseUsageModel, len(usage.Releases)),
		VMs:      make([]vmUsageModel, len(usage.VMs)),
	}
	for i, base := range usage.Bases {
		model.Bases[i] = baseUsageModel{Name: base.Name, Releases: int64(base.Releases), StoredBytes: base.Stored, FullBytes: base.Full}
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

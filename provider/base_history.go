package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// defaultRetain is how many releases of a base stay if the user does not say.
const defaultRetain = 5

// recordedModel is one release in the attribute history.
type recordedModel struct {
	Release    string   `tfsdk:"release"`
	Sequence   int64    `tfsdk:"sequence"`
	Published  *string  `tfsdk:"published"`
	Kernel     string   `tfsdk:"kernel"`
	OS         string   `tfsdk:"os"`
	Bytes      int64    `tfsdk:"bytes"`
	AddedBytes int64    `tfsdk:"added_bytes"`
	VMs        []string `tfsdk:"vms"`
}

var recordedType = types.ObjectType{AttrTypes: map[string]attr.Type{
	"release": types.StringType, "sequence": types.Int64Type, "published": types.StringType, "kernel": types.StringType, "os": types.StringType,
	"bytes": types.Int64Type, "added_bytes": types.Int64Type, "vms": types.ListType{ElemType: types.StringType},
}}

// Texts that the resource and the data source share.
const (
	describeHistory   = "Releases that the pool keeps of the base, newest first."
	describeRecorded  = "Id of the release."
	describePublished = "When it became the newest release, of the form `2026-11-25T01:02:03Z` (RFC 3339, UTC). It is recorded beside the release, " +
		"which is the same whenever it is made; null if it was published before times were recorded."
	describeNumber = "Number of the release, from 1."
	describeKernel = "Kernel release; empty if the pool lacks the manifest."
	describeOS     = "Name of the operating system."
	describeBytes  = "Bytes of all its layers together."
	describeAdded  = "Bytes of the layers that no earlier release in the history has."
	describeVMs    = "VMs that refer to it, running or not, from whatever Terraform state."
)

func retainAttribute() schema.Attribute {
	return schema.Int64Attribute{
		Optional: true,
		MarkdownDescription: "How many of the newest releases the pool keeps. Earlier ones go with the next release, or, if a VM, " +
			"running or not, refers to them, as soon as the last one is moved or deleted, also if it is deleted to be replaced; so does all " +
			"that neither a release nor a VM refers to. Default: 5.",
		Validators: []validator.Int64{int64validator.AtLeast(1)},
	}
}

func historyAttribute() schema.Attribute {
	return schema.ListNestedAttribute{
		Computed:            true,
		MarkdownDescription: describeHistory,
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"release":     schema.StringAttribute{Computed: true, MarkdownDescription: describeRecorded},
			"sequence":    schema.Int64Attribute{Computed: true, MarkdownDescription: describeNumber},
			"published":   schema.StringAttribute{Computed: true, MarkdownDescription: describePublished},
			"kernel":      schema.StringAttribute{Computed: true, MarkdownDescription: describeKernel},
			"os":          schema.StringAttribute{Computed: true, MarkdownDescription: describeOS},
			"bytes":       schema.Int64Attribute{Computed: true, MarkdownDescription: describeBytes},
			"added_bytes": schema.Int64Attribute{Computed: true, MarkdownDescription: describeAdded},
			"vms":         schema.ListAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: describeVMs},
		}},
	}
}

// retained is how many releases of the base are to stay.
func (m *baseModel) retained() int {
	if m.Retain.IsNull() || m.Retain.IsUnknown() {
		return defaultRetain
	}
	return int(m.Retain.ValueInt64())
}

// readHistory reads the releases that the pool keeps of a base, and who refers to them.
func readHistory(ctx context.Context, backend Backend, name string) (types.List, diag.Diagnostics) {
	unknown := types.ListUnknown(recordedType)
	fail := func(err error) (types.List, diag.Diagnostics) {
		return unknown, failed(failure{do: "read the history of", object: baseName(name), err: err})
	}
	history, err := backend.Publisher().History(ctx, name)
	if err != nil {
		return fail(err)
	}
	inUse, err := backend.VMs().InUse(ctx)
	if err != nil {
		return fail(err)
	}
	models := make([]recordedModel, len(history))
	for i, added := range publish.Added(history) {
		models[i] = recordedModel{
			Release: history[i].ID.String(), Bytes: history[i].Bytes(), AddedBytes: added, VMs: append([]string{}, inUse[history[i].ID]...),
		}
		if published := history[i].Published; !published.IsZero() {
			text := published.Format(time.RFC3339)
			models[i].Published = &text
		}
		if m := history[i].Manifest; m != nil {
			models[i].Sequence, models[i].OS = int64(m.Sequence), m.OS
			if m.Kernel != nil {
				models[i].Kernel = m.Kernel.Release
			}
		}
	}
	return types.ListValueFrom(ctx, recordedType, models)
}

// retain drops what the base is not to keep. That it fails does not undo the release: the next one does it again.
func retain(ctx context.Context, backend Backend, plan *baseModel) diag.Diagnostics {
	name := plan.Name.ValueString()
	_, err := backend.Publisher().Retain(ctx, name, plan.retained(), func(ctx context.Context) (map[tree.Digest][]string, error) {
		return backend.VMs().InUse(ctx)
	})
	if err == nil {
		return nil
	}
	next := "The base itself is as it was planned, and more is kept than needed. The next release tries it again."
	if errors.Is(err, store.ErrUnreachable) {
		next += " Check that libvirt runs and answers."
	}
	return diag.Diagnostics{diag.NewWarningDiagnostic(
		fmt.Sprintf("Unable to delete what nothing needs beside %s", baseName(name)), sentence(err)+"\n\n"+next)}
}

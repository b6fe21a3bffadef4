package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// defaultRetain is how many releases of an object are kept by default.
const defaultRetain = 5

// retention is which releases the pool keeps.
type retention struct {
	Retain types.Int64 `tfsdk:"retain"`
}

// recordedModel is one value of the attribute history. A base has the kernel in addition, and a component the base
// release.
type recordedModel struct {
	Release    string   `tfsdk:"release"`
	Sequence   int64    `tfsdk:"sequence"`
	Published  *string  `tfsdk:"published"`
	OS         string   `tfsdk:"os"`
	Bytes      int64    `tfsdk:"bytes"`
	AddedBytes int64    `tfsdk:"added_bytes"`
	VMs        []string `tfsdk:"vms"`
}

type recordedBase struct {
	recordedModel
	Kernel string `tfsdk:"kernel"`
}

type recordedComponent struct {
	recordedModel
	Base string `tfsdk:"base"`
}

func retentionAttributes(kind *releaseKind) map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"retain": schema.Int64Attribute{
			Optional: true,
			MarkdownDescription: "Number of the newest releases that the pool keeps. An older release is deleted " +
				"when the next release is published. If VMs refer to it, running or not, it is deleted when the last " +
				"of them is moved or deleted, even if that VM is being replaced. Data that neither a release nor a " +
				"VM refers to is deleted in the same way. The data source `sharedos_" + string(kind.kind) +
				"` lists what is kept. Default: 5.",
			Validators: []validator.Int64{int64validator.AtLeast(1)},
		},
	}
}

// historyAttribute is an attribute of the data source. In the resource, every plan of a release would repeat it.
func (k *releaseKind) historyAttribute() schema.ListNestedAttribute {
	attributes := map[string]schema.Attribute{
		"release":  computedText("Id of the release."),
		"sequence": computedNumber("Number of the release, counted from 1."),
		"published": computedText("Time at which it became the newest release, of the form " +
			"`2026-11-25T01:02:03Z` (RFC 3339, UTC). The time is not part of the release, whose id does not " +
			"depend on it. Null if it was published before times were recorded."),
		"os":          computedText("Name of the operating system."),
		"bytes":       computedNumber("Bytes of all its layers together."),
		"added_bytes": computedNumber("Bytes of the layers that no earlier release in the history has."),
		"vms":         computedTexts("VMs that refer to it, running or not, from any Terraform state."),
	}
	if k.kind == release.Component {
		attributes["base"] = computedText(
			"Id of the base release that it is built on; empty if the manifest is missing from the pool.")
	} else {
		attributes["kernel"] = computedText("Kernel release; empty if the manifest is missing from the pool.")
	}
	return schema.ListNestedAttribute{
		Computed:            true,
		MarkdownDescription: fmt.Sprintf("Releases of the %s that the pool keeps, newest first.", k.kind),
		NestedObject:        schema.NestedAttributeObject{Attributes: attributes},
	}
}

// retained is how many releases are to be kept.
func (b *retention) retained() int {
	if unset(b.Retain) {
		return defaultRetain
	}
	return int(b.Retain.ValueInt64())
}

// readHistory reads the releases that the pool keeps of an object, and which VMs refer to them. One that is new may
// have none yet.
func (k *releaseKind) readHistory(ctx context.Context, backend Backend, name string,
	new bool) (types.List, diag.Diagnostics) {
	recorded := k.historyAttribute().NestedObject.Type()
	fail := func(err error) (types.List, diag.Diagnostics) {
		return types.ListUnknown(recorded), failed(failure{do: "read the history of", object: k.object(name), err: err})
	}
	history, err := k.publisher(backend).History(ctx, name)
	if new && errors.Is(err, store.ErrNotFound) {
		return types.ListValueFrom(ctx, recorded, []recordedModel{})
	}
	if err != nil {
		return fail(err)
	}
	inUse, err := backend.VMs().InUse(ctx)
	if err != nil {
		return fail(err)
	}
	bases, components := []recordedBase{}, []recordedComponent{}
	for i, added := range publish.Added(history) {
		model := recordedModel{
			Release: history[i].ID.String(), Bytes: history[i].Bytes(), AddedBytes: added,
			VMs: append([]string{}, inUse[history[i].ID]...),
		}
		if published := history[i].Published; !published.IsZero() {
			text := published.Format(time.RFC3339)
			model.Published = &text
		}
		var kernel, base string
		if m := history[i].Manifest; m != nil {
			model.Sequence, model.OS = int64(m.Sequence), m.OS
			base = m.BuiltOn.String()
			if m.Kernel != nil {
				kernel = m.Kernel.Release
			}
		}
		bases, components = append(bases, recordedBase{model, kernel}),
			append(components, recordedComponent{model, base})
	}
	if k.kind == release.Component {
		return types.ListValueFrom(ctx, recorded, components)
	}
	return types.ListValueFrom(ctx, recorded, bases)
}

// retain deletes the releases that are not to be kept. A failure is a warning: the release itself was published,
// and the next release deletes them.
func retain(ctx context.Context, backend Backend, plan released) diag.Diagnostics {
	kind, name := plan.kind(), plan.fields().Name.ValueString()
	_, err := kind.publisher(backend).Retain(ctx, name, plan.fields().retained(),
		func(ctx context.Context) (map[tree.Digest][]string, error) {
			return backend.VMs().InUse(ctx)
		})
	if err == nil {
		return nil
	}
	next := fmt.Sprintf("The %[1]s itself is as planned. The next release of the %[1]s deletes them.", kind.kind)
	if errors.Is(err, store.ErrUnreachable) {
		next += " Check that libvirt runs and answers."
	}
	return diag.Diagnostics{diag.NewWarningDiagnostic(
		fmt.Sprintf("Unable to delete unreferenced releases of %s", objectOf(plan)), sentence(err)+"\n\n"+next)}
}

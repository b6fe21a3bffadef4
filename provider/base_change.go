package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// changeModel tells what differs from the previous release.
type changeModel struct {
	Summary        string   `tfsdk:"summary"`
	Added          int64    `tfsdk:"added"`
	Changed        int64    `tfsdk:"changed"`
	Removed        int64    `tfsdk:"removed"`
	AddedBytes     int64    `tfsdk:"added_bytes"`
	ChangedBytes   int64    `tfsdk:"changed_bytes"`
	RemovedBytes   int64    `tfsdk:"removed_bytes"`
	LayerBytes     int64    `tfsdk:"layer_bytes"`
	Rebase         bool     `tfsdk:"rebase"`
	RebaseReason   *string  `tfsdk:"rebase_reason"`
	Packages       []string `tfsdk:"packages"`
	KernelFrom     string   `tfsdk:"kernel_from"`
	KernelTo       string   `tfsdk:"kernel_to"`
	PinnedAccounts []string `tfsdk:"pinned_accounts"`
}

var changeTypes = map[string]attr.Type{
	"summary": types.StringType,
	"added":   types.Int64Type, "changed": types.Int64Type, "removed": types.Int64Type,
	"added_bytes": types.Int64Type, "changed_bytes": types.Int64Type, "removed_bytes": types.Int64Type,
	"layer_bytes": types.Int64Type, "rebase": types.BoolType, "rebase_reason": types.StringType,
	"packages":    types.ListType{ElemType: types.StringType},
	"kernel_from": types.StringType, "kernel_to": types.StringType,
	"pinned_accounts": types.ListType{ElemType: types.StringType},
}

func changeAttribute() schema.Attribute {
	number := func(text string) schema.Attribute {
		return schema.Int64Attribute{Computed: true, MarkdownDescription: text}
	}
	texts := func(text string) schema.Attribute {
		return schema.ListAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: text}
	}
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the newest release changed; null for the first one, and for one that somebody else published. " +
			"Known in the plan whenever the release is.",
		Attributes: map[string]schema.Attribute{
			"summary":       schema.StringAttribute{Computed: true, MarkdownDescription: "All of it in a few lines, to be read."},
			"added":         number("Files, directories and links added."),
			"changed":       number("Files, directories and links changed."),
			"removed":       number("Files, directories and links removed."),
			"added_bytes":   number("Bytes of the files added."),
			"changed_bytes": number("Bytes of the files changed, as they are now."),
			"removed_bytes": number("Bytes of the files removed."),
			"layer_bytes":   number("Bytes of the layer that is written for it, delta or full; 0 if none is needed."),
			"rebase": schema.BoolAttribute{
				Computed: true,
				MarkdownDescription: "Whether a full layer is written instead of a delta. It is as large as the operating system. A VM gets it like a delta, and " +
					"nothing more is interrupted; processes that it leaves alone keep the layers before attached until they end.",
			},
			"rebase_reason": schema.StringAttribute{Computed: true, MarkdownDescription: "Why a full layer is written; null if it is not."},
			"packages":      texts("Packages that differ, such as `openssl 3.5.1-1 → 3.5.1-1+deb13u1`."),
			"kernel_from":   schema.StringAttribute{Computed: true, MarkdownDescription: "Kernel release before."},
			"kernel_to":     schema.StringAttribute{Computed: true, MarkdownDescription: "Kernel release now; equal to `kernel_from` if the kernel stayed."},
			"pinned_accounts": texts("Accounts whose numbers `pin_accounts` took from the release before and not from the source, " +
				"such as `user www-data from 34 to 33`; null if none was."),
		},
	}
}

// changeValue describes a change to a release.
func changeValue(ctx context.Context, change *publish.Change, to *release.Manifest) (types.Object, diag.Diagnostics) {
	model := changeModel{
		Summary: summary(change, to),
		Added:   int64(change.Added.Entries), Changed: int64(change.Changed.Entries), Removed: int64(change.Removed.Entries),
		AddedBytes: change.Added.Bytes, ChangedBytes: change.Changed.Bytes, RemovedBytes: change.Removed.Bytes,
		LayerBytes: change.LayerBytes, Rebase: change.Rebase != "",
		Packages:   make([]string, len(change.Packages)),
		KernelFrom: change.KernelFrom, KernelTo: change.KernelTo,
		PinnedAccounts: change.Pinned,
	}
	if model.Rebase {
		model.RebaseReason = &change.Rebase
	}
	for i, p := range change.Packages {
		model.Packages[i] = packageChange(p)
	}
	slices.Sort(model.Packages)
	return types.ObjectValueFrom(ctx, changeTypes, model)
}

// packageChange writes "openssl 3.5.1-1 → 3.5.1-1+deb13u1".
func packageChange(p publish.PackageChange) string {
	switch {
	case p.From == "":
		return p.Name + " " + p.To + " added"
	case p.To == "":
		return p.Name + " " + p.From + " removed"
	default:
		return p.Name + " " + p.From + " → " + p.To
	}
}

// summary tells a change in a line each for packages, kernel, files, layer and accounts. Terraform shows it as it is.
func summary(change *publish.Change, to *release.Manifest) string {
	var changed, added, removed int
	for _, p := range change.Packages {
		switch {
		case p.From == "":
			added++
		case p.To == "":
			removed++
		default:
			changed++
		}
	}
	kernel := change.KernelTo + " as before"
	if change.KernelFrom != change.KernelTo {
		kernel = change.KernelFrom + " → " + change.KernelTo
	}
	files := func(count publish.Count, what string) string {
		if count.Entries == 0 {
			return "0 " + what
		}
		return fmt.Sprintf("%d %s (%s)", count.Entries, what, mebibytes(count.Bytes))
	}
	layer := "none written: the files are the same"
	switch {
	case change.Rebase != "":
		layer = fmt.Sprintf("a full one of %s instead of a delta: %s", mebibytes(change.LayerBytes), change.Rebase)
	case change.LayerBytes > 0:
		layer = fmt.Sprintf("a delta of %s over %d below", mebibytes(change.LayerBytes), len(to.Layers)-1)
	}
	lines := []string{
		fmt.Sprintf("packages: %d changed, %d added, %d removed", changed, added, removed),
		"kernel:   " + kernel,
		fmt.Sprintf("files:    %s, %s, %s", files(change.Changed, "changed"), files(change.Added, "added"), files(change.Removed, "removed")),
		"layer:    " + layer,
	}
	if len(change.Pinned) > 0 {
		lines = append(lines, "accounts: "+strings.Join(change.Pinned, ", "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// mebibytes writes "27.0 MiB", and less than that in KiB or bytes.
func mebibytes(bytes int64) string {
	switch {
	case bytes < 1<<10:
		return fmt.Sprintf("%d bytes", bytes)
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	default:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
}

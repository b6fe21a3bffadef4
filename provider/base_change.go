package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// baseChange is what the newest release of a base changed.
type baseChange struct {
	Change types.Object `tfsdk:"change"`
}

// changeModel is the attribute change.
type changeModel struct {
	countsModel
	Summary        string            `tfsdk:"summary"`
	Rebase         bool              `tfsdk:"rebase"`
	RebaseReason   *string           `tfsdk:"rebase_reason"`
	Packages       map[string]string `tfsdk:"packages"`
	KernelFrom     string            `tfsdk:"kernel_from"`
	KernelTo       string            `tfsdk:"kernel_to"`
	PinnedAccounts []string          `tfsdk:"pinned_accounts"`
}

// countsModel has the numbers of a change, which the attributes change and adds have.
type countsModel struct {
	Added        int64    `tfsdk:"added"`
	Changed      int64    `tfsdk:"changed"`
	Removed      int64    `tfsdk:"removed"`
	AddedBytes   int64    `tfsdk:"added_bytes"`
	ChangedBytes int64    `tfsdk:"changed_bytes"`
	RemovedBytes int64    `tfsdk:"removed_bytes"`
	LayerBytes   int64    `tfsdk:"layer_bytes"`
	VMOwned      int64    `tfsdk:"vm_owned"`
	VMOwnedPaths []string `tfsdk:"vm_owned_paths"`
}

func countsOf(change *publish.Change) countsModel {
	counts := countsModel{
		Added: int64(change.Added.Entries), Changed: int64(change.Changed.Entries),
		Removed:    int64(change.Removed.Entries),
		AddedBytes: change.Added.Bytes, ChangedBytes: change.Changed.Bytes, RemovedBytes: change.Removed.Bytes,
		LayerBytes: change.LayerBytes, VMOwned: int64(change.VMOwned),
	}
	for _, name := range change.VMOwnedPaths {
		counts.VMOwnedPaths = append(counts.VMOwnedPaths, "/"+name)
	}
	return counts
}

func changeAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"change": changeAttribute()}
}

func changeAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the newest release changed; null for the first release, and for one that was " +
			"published from another configuration. A plan shows it whenever it shows the release.",
		Attributes: map[string]schema.Attribute{
			"summary":       computedText("The whole change in a few lines of text."),
			"added":         computedNumber("Number of files, directories and links added."),
			"changed":       computedNumber("Number of files, directories and links changed."),
			"removed":       computedNumber("Number of files, directories and links removed."),
			"added_bytes":   computedNumber("Bytes of the added files."),
			"changed_bytes": computedNumber("Bytes of the changed files, after the change."),
			"removed_bytes": computedNumber("Bytes of the removed files."),
			"layer_bytes": computedNumber("Bytes of the layer that is written for the change, delta or full; 0 if " +
				"none is needed."),
			"rebase": computedBool("Whether a full layer is written instead of a delta. A full layer is as large as " +
				"the operating system. A VM is refreshed to it as to a delta, with no more interruption. Processes " +
				"that are not restarted keep using the old layers, which stay attached until they end."),
			"rebase_reason": computedText("Why a full layer is written; null if it is not."),
			"packages": schema.MapAttribute{
				Computed: true, ElementType: types.StringType,
				MarkdownDescription: "Packages that differ, by their names, such as `openssl` with `3.5.1-1 → 3.5.1-1+deb13u1`. " +
					"The data source `sharedos_base` has all packages.",
			},
			"kernel_from": computedText("Kernel release before the change."),
			"kernel_to": computedText("Kernel release after the change; equal to `kernel_from` if the kernel " +
				"stayed the same."),
			"vm_owned": computedNumber("Number of files, directories and links that differ below `/var`, `/home`, " +
				"`/root` and `/srv`. They are the VM's own: a VM that has them keeps its version, whatever the release " +
				"brings, and a new VM gets the release's. They are not in the other numbers."),
			"vm_owned_paths": computedTexts("The first 20 of these paths; null if there are none."),
			"pinned_accounts": computedTexts("Accounts that kept the id of the previous release because of " +
				"`pin_accounts`, such as `user www-data from 34 to 33`, where 34 is the id in the source; null if " +
				"there are none."),
		},
	}
}

var changeTypes = typesOf(changeAttribute().Attributes)

// describe describes the change to a release.
func (b *baseChange) describe(ctx context.Context, change *publish.Change,
	to *release.Manifest) (diags diag.Diagnostics) {
	model := changeModel{
		countsModel: countsOf(change), Summary: summary(change, to), Rebase: change.Rebase != "",
		Packages:   make(map[string]string, len(change.Packages)),
		KernelFrom: change.KernelFrom, KernelTo: change.KernelTo,
		PinnedAccounts: change.Pinned,
	}
	if model.Rebase {
		model.RebaseReason = &change.Rebase
	}
	for _, p := range change.Packages {
		model.Packages[p.Name] = packageChange(p)
	}
	b.Change = object(ctx, changeTypes, model, &diags)
	return diags
}

// packageChange writes "3.5.1-1 → 3.5.1-1+deb13u1".
func packageChange(p publish.PackageChange) string {
	switch {
	case p.From == "":
		return p.To + " added"
	case p.To == "":
		return p.From + " removed"
	default:
		return p.From + " → " + p.To
	}
}

// summary describes a change in a line each for packages, kernel, files, layer, what stays the VM's own, and accounts.
func summary(change *publish.Change, to *release.Manifest) string {
	kernel := change.KernelTo + " as before"
	if change.KernelFrom != change.KernelTo {
		kernel = change.KernelFrom + " → " + change.KernelTo
	}
	layer := "none written: the files are the same"
	switch {
	case change.Rebase != "":
		layer = fmt.Sprintf("a full one of %s instead of a delta: %s", mebibytes(change.LayerBytes), change.Rebase)
	case change.LayerBytes > 0:
		layer = fmt.Sprintf("a delta of %s over %d below", mebibytes(change.LayerBytes), len(to.Layers)-1)
	}
	lines := []string{
		"packages: " + countPackages(change.Packages),
		"kernel:   " + kernel,
		"files:    " + countFiles(change),
		"layer:    " + layer,
	}
	if change.VMOwned > 0 {
		text := fmt.Sprintf("VM's own: %d differ, and existing VMs keep theirs: /%s", change.VMOwned,
			strings.Join(change.VMOwnedPaths[:min(3, len(change.VMOwnedPaths))], ", /"))
		if change.VMOwned > 3 {
			text += ", ..."
		}
		lines = append(lines, text)
	}
	if len(change.Pinned) > 0 {
		lines = append(lines, "accounts: "+strings.Join(change.Pinned, ", "))
	}
	return strings.Join(lines, "\n") + "\n"
}

// countPackages writes "10 changed, 1 added, 1 removed".
func countPackages(packages []publish.PackageChange) string {
	var changed, added, removed int
	for _, p := range packages {
		switch {
		case p.From == "":
			added++
		case p.To == "":
			removed++
		default:
			changed++
		}
	}
	return fmt.Sprintf("%d changed, %d added, %d removed", changed, added, removed)
}

// countFiles writes "27 changed (1.9 MiB), 1422 added (23.9 MiB), 0 removed".
func countFiles(change *publish.Change) string {
	count := func(of publish.Count, what string) string {
		if of.Entries == 0 {
			return "0 " + what
		}
		return fmt.Sprintf("%d %s (%s)", of.Entries, what, mebibytes(of.Bytes))
	}
	return strings.Join([]string{count(change.Changed, "changed"), count(change.Added, "added"),
		count(change.Removed, "removed")}, ", ")
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

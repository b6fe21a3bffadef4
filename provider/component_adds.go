package provider

import (
	"context"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
)

// componentAdds is what a component adds to its base.
type componentAdds struct {
	Adds types.Object `tfsdk:"adds"`
}

// addsModel is the attribute adds.
type addsModel struct {
	countsModel
	Summary string `tfsdk:"summary"`
}

func addsAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"adds": addsAttribute()}
}

func addsAttribute() schema.SingleNestedAttribute {
	return schema.SingleNestedAttribute{
		Computed: true,
		MarkdownDescription: "What the component adds to its base; null if its release was published from another " +
			"configuration and was not prepared here since. A plan shows it whenever it shows the release.",
		Attributes: map[string]schema.Attribute{
			"summary": computedText("All of it in a few lines of text."),
			"added":   computedNumber("Number of files, directories and links that the base does not have."),
			"changed": computedNumber(
				"Number of files, directories and links of the base that are others with the component, such as " +
					"the package database."),
			"removed": computedNumber(
				"Number of files, directories and links of the base that are gone with the component."),
			"added_bytes":   computedNumber("Bytes of the added files."),
			"changed_bytes": computedNumber("Bytes of the changed files, with the component."),
			"removed_bytes": computedNumber("Bytes of the removed files."),
			"layer_bytes":   computedNumber("Bytes of the layer that holds all of this."),
			"vm_owned": computedNumber(
				"Number of files, directories and links below `/var`, `/home`, `/root` and `/srv` that the " +
					"component brings or changes. They are the VM's own. They are not in the other numbers."),
			"vm_owned_paths": computedTexts("The first 20 of these paths; null if there are none."),
		},
	}
}

var addsTypes = typesOf(addsAttribute().Attributes)

// describe describes what a component adds.
func (b *componentAdds) describe(ctx context.Context, change *publish.Change) (diags diag.Diagnostics) {
	model := addsModel{countsModel: countsOf(change), Summary: addsSummary(change)}
	b.Adds = object(ctx, addsTypes, model, &diags)
	return diags
}

// addsSummary describes what a component adds in a line each for packages, files, layer, and what is the VM's own.
func addsSummary(change *publish.Change) string {
	lines := []string{
		"packages: " + countPackages(change.Packages),
		"files:    " + countFiles(change),
		"layer:    " + mebibytes(change.LayerBytes),
	}
	if change.VMOwned > 0 {
		lines = append(lines, fmt.Sprintf("VM's own: %d", change.VMOwned))
	}
	return strings.Join(lines, "\n") + "\n"
}

package provider

import (
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
)

// secretsLeftOut warns of secrets that a build has made, that its release does not have, and that a VM does not make by
// itself.
func secretsLeftOut(m released, secrets []rootfs.Secret) diag.Diagnostics {
	var missing []rootfs.Secret
	for _, s := range secrets {
		if !s.Made {
			missing = append(missing, s)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return diag.Diagnostics{diag.NewAttributeWarningDiagnostic(path.Root("shared_secrets"),
		fmt.Sprintf("%s %q is built without secrets that its packages made", m.kind().title(),
			m.fields().Name.ValueString()),
		"These files were made while the "+string(m.kind().kind)+
			" was built. All VMs would share them, so they are left out:\n\n  "+
			strings.Join(rootfs.SecretsText(missing), "\n  ")+
			"\n\nCreate them in each VM, for example with files of its "+
			"sharedos_vm. If a file is no secret, list its path in shared_secrets.")}
}

// corrections warns of what was corrected in what a source yields.
func corrections(m released, notes []string) diag.Diagnostics {
	if len(notes) == 0 {
		return nil
	}
	const shown = 30
	if more := len(notes) - shown; more > 0 {
		notes = append(notes[:shown:shown], fmt.Sprintf("and %d more", more))
	}
	return diag.Diagnostics{diag.NewWarningDiagnostic(fmt.Sprintf("%s %q is not quite what its source has",
		m.kind().title(), m.fields().Name.ValueString()),
		"VMs would be unsafe or broken with these, or cannot have them, so the "+string(m.kind().kind)+
			" has them otherwise:\n\n  "+
			strings.Join(notes, "\n  ")+"\n\nCorrect the source if this is not what you want.")}
}

// setKnown reports whether a set and all its elements are known.
func setKnown(set types.Set) bool {
	if set.IsUnknown() {
		return false
	}
	for _, element := range set.Elements() {
		if element.IsUnknown() {
			return false
		}
	}
	return true
}

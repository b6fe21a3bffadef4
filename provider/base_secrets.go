package provider

import (
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
)

// secretsLeftOut warns of secrets that a build has made, that the base does not have, and that a VM does not make by
// itself.
func secretsLeftOut(base string, secrets []rootfs.Secret) diag.Diagnostics {
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
		fmt.Sprintf("Base %q is built without secrets that its packages made", base),
		"These files were made while the base was built. All VMs would share them, so they are left out:\n\n  "+
			strings.Join(rootfs.SecretsText(missing), "\n  ")+"\n\nCreate them in each VM, for example with files of its "+
			"sharedos_vm. If a file is no secret, list its path in shared_secrets.")}
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

package provider

import (
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
)

// conflictWarning warns of what a refresh did not bring to the release's version in the VM's own
// files, and says what an administrator can do. A refresh that was rolled back has changed nothing.
func conflictWarning(report *agentapi.Report) diag.Diagnostics {
	conflicts := report.GetConflictDetails()
	if len(conflicts) == 0 || !report.GetCommitted() {
		return nil
	}
	// Conflicts with the same remedy are listed together, in the order of the first.
	var order []string
	paths := map[string][]string{}
	for _, c := range limited(conflicts) {
		advice := guestText(c.GetAdvice())
		if paths[advice] == nil {
			order = append(order, advice)
		}
		paths[advice] = append(paths[advice], guestText(c.GetPath())+": "+guestText(c.GetReason()))
	}
	var lines []string
	for _, advice := range order {
		lines = append(lines, paths[advice]...)
		if advice != "" {
			lines = append(lines, "To do: "+advice+".")
		}
	}
	return diag.Diagnostics{diag.NewAttributeWarningDiagnostic(path.Root("last_refresh").AtName("conflicts"),
		fmt.Sprintf("The refresh left %d of the VM's own files as they are, or merged them", len(conflicts)),
		"The agent in the VM says what an administrator of the VM can do:"+plain.Guest(lines...))}
}

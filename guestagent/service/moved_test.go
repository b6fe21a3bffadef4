package service

import (
	"encoding/json"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
)

// What a boot could not carry is reported as after a refresh, with what an administrator can do.
func TestTheReportOfABootHasItsConflictsWithAdvice(t *testing.T) {
	if report := moved(boot.BootRecord{}); report != nil {
		t.Errorf("a boot that carried nothing reports %v", report)
	}
	data, err := json.Marshal(boot.BootRecord{Moved: &boot.Moved{Carried: 2, Conflicts: []etcmerge.Conflict{
		{Path: "var/opt/acme/acmed", Kind: etcmerge.Replaced, Reason: "changed here and by the release"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	var record boot.BootRecord
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	report := moved(record)
	details := report.GetConflictDetails()
	if !report.GetCommitted() || report.GetEtcCarried() != 2 || len(details) != 1 || len(report.GetConflicts()) != 1 {
		t.Fatalf("%v", report)
	}
	if details[0].GetPath() != "/opt/acme/acmed" || details[0].GetAdvice() == "" || details[0].GetKind() != "replaced" {
		t.Errorf("%v", details[0])
	}
}

package journal

import (
	"encoding/json"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// The journal's form of a planned unit is that of earlier versions: an agent takes over in the middle of a refresh that
// another version began.
func TestAPlannedUnitKeepsItsFormInTheJournal(t *testing.T) {
	for text, outcome := range map[string]impact.Outcome{
		`{"unit":"a.service"}`:                         impact.Restarted,
		`{"unit":"a.service","with":true}`:             impact.RestartedAlong,
		`{"unit":"a.service","reload":true}`:           impact.Reloaded,
		`{"unit":"a.service","gone":true}`:             impact.Stopped,
		`{"unit":"a.service","gone":true,"with":true}`: impact.StoppedAlong,
	} {
		var planned Planned
		if err := json.Unmarshal([]byte(text), &planned); err != nil ||
			planned != (Planned{Unit: "a.service", Outcome: outcome}) {
			t.Errorf("%s is read as %+v, %v", text, planned, err)
		}
		if data, err := json.Marshal(planned); err != nil || string(data) != text {
			t.Errorf("%+v is written as %s, want %s, %v", planned, data, text, err)
		}
	}
	var planned Planned
	if err := json.Unmarshal([]byte(`{"unit":7}`), &planned); err == nil {
		t.Error("a unit without a name was read")
	}
}

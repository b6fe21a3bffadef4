package boot

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

func TestWhatABootDoesWithEtc(t *testing.T) {
	before, committed, next := stackOf("base"), stackOf("base", "patch"), stackOf("base", "other")
	ends := func(from, to release.Stack) etcmerge.Ends {
		return etcmerge.Ends{From: StackKey(from), To: StackKey(to)}
	}
	runs := func(stack release.Stack) *CommittedRecord { return &CommittedRecord{Stack: stack} }
	try := func(strategy, state string) *flight {
		return &flight{State: state, Strategy: strategy, From: committed, To: next}
	}
	for name, test := range map[string]struct {
		records privateRecords
		chosen  release.Stack
		settled etcmerge.Ends
		want    etcMove
	}{
		"the first boot":                           {privateRecords{}, before, etcmerge.Ends{}, etcBegins},
		"what is committed boots":                  {privateRecords{committed: runs(committed)}, committed, ends(before, committed), etcStays},
		"what is committed boots, after a move":    {privateRecords{committed: runs(committed)}, committed, ends(committed, committed), etcStays},
		"the one before it boots":                  {privateRecords{committed: runs(committed)}, before, ends(before, committed), etcGoesBack},
		"which was cut off once it was committed":  {privateRecords{committed: runs(before)}, before, ends(before, committed), etcGoesBack},
		"one further back boots":                   {privateRecords{committed: runs(committed)}, before, ends(next, committed), etcMoves},
		"what the host has moved on to boots":      {privateRecords{committed: runs(committed)}, next, ends(before, committed), etcMoves},
		"the record of the last carry is lost":     {privateRecords{committed: runs(committed)}, before, etcmerge.Ends{}, etcMoves},
		"a refresh has it started":                 {privateRecords{committed: runs(committed), flight: try(reboot, stateStarting)}, next, ends(before, committed), etcStays},
		"a refresh has started it":                 {privateRecords{committed: runs(committed), flight: try(softReboot, stateChecking)}, next, ends(before, committed), etcStays},
		"a refresh was cut off before it had":      {privateRecords{committed: runs(committed), flight: try(kexec, "carried")}, next, ends(before, committed), etcMoves},
		"a live refresh was cut off, the host on":  {privateRecords{committed: runs(committed), flight: try("live", "swapped")}, next, ends(before, committed), etcMoves},
		"a refresh was cut off, the one before it": {privateRecords{committed: runs(committed), flight: try("live", "swapped")}, before, ends(before, committed), etcGoesBack},
	} {
		if got := test.records.etcMove(test.chosen, test.settled); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

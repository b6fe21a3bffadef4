package boot

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

func TestWhatABootDoesWithEtc(t *testing.T) {
	before, committed, next := stackOf("base"), stackOf("base", "patch"), stackOf("base", "other")
	ends := func(from, to release.Stack) etcmerge.Ends {
		return etcmerge.Ends{From: from.Key(), To: to.Key()}
	}
	runs := func(stack release.Stack) *CommittedRecord { return &CommittedRecord{Stack: stack} }
	try := func(strategy journal.Strategy, state journal.State) *journal.Record {
		return &journal.Record{State: state, Strategy: strategy, From: committed, To: next}
	}
	for name, test := range map[string]struct {
		records privateRecords
		chosen  release.Stack
		settled etcmerge.Ends
		want    etcAction
	}{
		"the first boot": {privateRecords{}, before, etcmerge.Ends{}, etcBegins},
		"what is committed boots": {privateRecords{committed: runs(committed)}, committed,
			ends(before, committed), etcStays},
		"what is committed boots, after a move": {privateRecords{committed: runs(committed)}, committed,
			ends(committed, committed), etcStays},
		"the one before it boots": {privateRecords{committed: runs(committed)}, before,
			ends(before, committed), etcGoesBack},
		"which was cut off once it was committed": {privateRecords{committed: runs(before)}, before, ends(before, committed), etcGoesBack},
		"one further back boots": {privateRecords{committed: runs(committed)}, before,
			ends(next, committed), etcMoves},
		"what the host has moved on to boots": {privateRecords{committed: runs(committed)}, next,
			ends(before, committed), etcMoves},
		"the record of the last carry is lost": {privateRecords{committed: runs(committed)}, before,
			etcmerge.Ends{}, etcMoves},
		"a refresh has it started": {privateRecords{committed: runs(committed),
			flight: try(journal.Reboot, journal.Starting)}, next, ends(before, committed), etcStays},
		"a refresh has started it": {privateRecords{committed: runs(committed),
			flight: try(journal.SoftReboot, journal.Checking)}, next, ends(before, committed), etcStays},
		"a refresh was cut off before it had": {privateRecords{committed: runs(committed),
			flight: try(journal.Kexec, "carried")}, next, ends(before, committed), etcMoves},
		"a live refresh was cut off, the host on": {privateRecords{committed: runs(committed),
			flight: try("live", "swapped")}, next, ends(before, committed), etcMoves},
		"a refresh was cut off, the one before it": {privateRecords{committed: runs(committed),
			flight: try("live", "swapped")}, before, ends(before, committed), etcGoesBack},
	} {
		if got := test.records.etcAction(test.chosen, test.settled); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// A system with one file of configuration, which each stack brings in its own version.
func TestACarryIsEndedForTheStackThatRuns(t *testing.T) {
	for name, test := range map[string]struct {
		// done is how far the carry from "one" to "two" came, before the stack of this key is found to run.
		done func(etcmerge.Carrier) error
		runs string
		want string
	}{
		"it was for this one":                      {nil, "two", "two"},
		"it was for another one":                   {nil, "one", "one"},
		"it was settled":                           {settle, "two", "two"},
		"it was settled, and what ran before runs": {settle, "one", "one"},
		"it was settled, and a third one runs":     {settle, "three", "two"}, // which is carried from there, or was
	} {
		t.Run(name, func(t *testing.T) {
			directory := t.TempDir()
			for _, version := range []string{"one", "two", "three", "live"} {
				if err := os.MkdirAll(filepath.Join(directory, version, "etc"), 0o755); err != nil {
					t.Fatal(err)
				}
				text := map[string]string{"two": "two"}[version]
				if text == "" {
					text = "one"
				}
				if err := os.WriteFile(filepath.Join(directory, version, "etc/mark"), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			carrier := etcmerge.Carrier{Root: directory + "/live", Record: directory + "/undo",
				From: stackOf("one").Key(), To: stackOf("two").Key()}
			old, err := etcmerge.ListTree(directory+"/one", carrier.From)
			must(t, err)
			next, err := etcmerge.ListTree(directory+"/two", carrier.To)
			must(t, err)
			must(t, carrier.WriteBaseline(old))
			_, err = carrier.Carry(t.Context(), old, old.Differences(next), directory+"/two")
			must(t, err)
			if test.done != nil {
				if err := test.done(carrier); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 { // the agent may be ended on the way, and the next one does it again
				must(t, endCarry(t.Context(), carrier, stackOf(test.runs), func(use func(string) error) error {
					return use(filepath.Join(directory, test.runs))
				}))
			}
			got, err := os.ReadFile(directory + "/live/etc/mark")
			if err != nil || string(got) != test.want {
				t.Errorf("/etc is of %q (%v), want %q", got, err, test.want)
			}
			// The baseline is that of the stack at which /etc stands.
			baseline, err := carrier.Baseline()
			if err != nil || baseline.Stack != stackOf(test.want).Key() || baseline.Partial {
				t.Errorf("the baseline is %+v, %v", baseline, err)
			}
			if _, _, found, err := carrier.Carried(); err != nil || found {
				t.Errorf("the carry is not ended: %v, %v", found, err)
			}
		})
	}
}

func settle(c etcmerge.Carrier) error { return c.Settle(stackOf("two").Key()) }

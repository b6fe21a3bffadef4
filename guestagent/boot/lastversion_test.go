package boot

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// readLast reads a record that the last version wrote: its stacks have no ids. The VM was made with the stack "base"
// and has committed "base patch", which did not come up three times.
func readLast[T any](t *testing.T, name string) T {
	t.Helper()
	record, err := readRecord[T]("testdata/last-version/" + name)
	must(t, err)
	return record
}

// withIDs are the stacks of the records as this version's host names them.
func withIDs() (base, patch release.Stack) {
	base, patch = stackOf("base"), stackOf("base", "patch")
	base.Kernel, patch.Kernel = "6.12.1", "6.12.2"
	return base, patch
}

func TestABootChoosesByRecordsOfTheLastVersion(t *testing.T) {
	base, patch := withIDs()
	committed := readLast[CommittedRecord](t, "committed.json")
	config := readLast[agentapi.BootConfig](t, "bootconfig.json")
	attempts := readLast[AttemptsRecord](t, "attempts.json")
	started := readLast[journal.Record](t, "journal-reboot-starting.json")
	const tired = "it did not come up in 3 boots"
	for name, test := range map[string]struct {
		known known
		want  []candidate
	}{
		"the host still gives what it gave, with an id or without": {
			known{configured: base, committed: &committed},
			[]candidate{{committed.Stack, FromCommitted, 3, ""}, {base, Configured, 4, ""}},
		},
		"the definition is of the last version, too": {
			known{configured: config.Stack, committed: &committed},
			[]candidate{{committed.Stack, FromCommitted, 3, ""}, {config.Stack, Configured, 4, ""}},
		},
		"the host gives what is committed": {
			known{configured: patch, committed: &committed},
			[]candidate{{patch, FromCommitted, 3, ""}, {*committed.Previous, Earlier, 4, ""}},
		},
		"boots that did not come up still count": {
			known{configured: base, committed: &committed, attempts: attempts},
			[]candidate{{base, Configured, 4, ""}, {committed.Stack, FromCommitted, 3, tired}},
		},
		"a stack that the host starts on trial has one boot": {
			known{configured: patch, flight: &started, attempts: attempts},
			[]candidate{{started.From, Earlier, 0, ""}, {patch, Configured, 0, tired}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, candidates(test.known), cmp.AllowUnexported(candidate{})); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if !started.Tries(patch) || started.Tries(base) {
		t.Error("the refresh of the journal does not try its stack")
	}
}

func TestEtcIsAtTheStackThatTheLastVersionCarriedItTo(t *testing.T) {
	base, patch := withIDs()
	committed := readLast[CommittedRecord](t, "committed.json")
	data, err := os.ReadFile("testdata/last-version/ends.json")
	must(t, err)
	var settled etcmerge.Ends
	must(t, json.Unmarshal(data, &settled))
	records := privateRecords{committed: &committed}
	for name, test := range map[string]struct {
		chosen release.Stack
		want   etcAction
	}{
		"what is committed boots":     {patch, etcStays},
		"the one before it boots":     {base, etcGoesBack},
		"another stack boots":         {stackOf("base", "other"), etcMoves},
		"a record without an id, too": {committed.Stack, etcStays},
	} {
		if got := records.etcAction(test.chosen, settled); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestAStackThatComesUpIsForgottenUnderItsEarlierKeyToo(t *testing.T) {
	_, patch := withIDs()
	attempts := readLast[AttemptsRecord](t, "attempts.json")
	if got := attempts.of(patch); got != 3 {
		t.Errorf("%d boots did not come up, want 3", got)
	}
	if rest := attempts.without(patch); len(rest.Counts) != 0 {
		t.Errorf("left are %v", rest.Counts)
	}
}

package boot

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

func TestCandidates(t *testing.T) {
	configured, committed, other, before := stackOf("base"), stackOf("base", "patch"),
		stackOf("base", "other"), stackOf("earlier")
	worn := func(n int, stacks ...release.Stack) AttemptsRecord {
		counts := map[string]int{}
		for _, stack := range stacks {
			counts[stack.Key()] = n
		}
		return AttemptsRecord{Counts: counts}
	}
	const tired, failed = "it did not come up in 3 boots", "it did not come up in 1 boots"
	record := &CommittedRecord{Stack: committed, Generation: 4, Configured: configured}
	previous := &CommittedRecord{Stack: committed, Generation: 4, Configured: committed, Previous: &before}
	trial := func(strategy journal.Strategy, state journal.State) *journal.Record {
		return &journal.Record{State: state, Strategy: strategy, From: committed, To: other}
	}
	for name, test := range map[string]struct {
		known known
		want  []candidate
	}{
		"the VM has attached a component since the host moved it": {
			known{configured: other,
				committed: &CommittedRecord{Stack: committed, Generation: 4, Configured: configured, Wanted: &other}},
			[]candidate{{committed, FromCommitted, 4, ""}, {other, Configured, 5, ""}},
		},
		"the host has detached that component since": {
			known{configured: other, detaches: 1,
				committed: &CommittedRecord{Stack: committed, Generation: 4, Configured: configured, Wanted: &other}},
			[]candidate{{other, Configured, 5, ""}, {committed, FromCommitted, 4, ""}},
		},
		"the host has detached it from the stack of the last boot": {
			known{configured: configured, detaches: 1, committed: record},
			[]candidate{{configured, Configured, 5, ""}, {committed, FromCommitted, 4, ""}},
		},
		"the VM has attached one since the host detached another": {
			known{configured: configured, detaches: 1,
				committed: &CommittedRecord{Stack: committed, Generation: 4, Configured: configured, Detaches: 1}},
			[]candidate{{committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"nothing committed: the configured stack": {
			known{configured: configured},
			[]candidate{{configured, Configured, 0, ""}},
		},
		"the host still gives what it gave before the commit: the committed stack first": {
			known{configured: configured, committed: record},
			[]candidate{{committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"the host gives what was committed: that alone": {
			known{configured: committed, committed: record},
			[]candidate{{committed, FromCommitted, 4, ""}},
		},
		"the host has moved on since the commit: its stack first": {
			known{configured: other, committed: record},
			[]candidate{{other, Configured, 5, ""}, {committed, FromCommitted, 4, ""}},
		},
		"a committed stack that does not come up gives way": {
			known{configured: configured, committed: record, attempts: worn(3, committed)},
			[]candidate{{configured, Configured, 5, ""}, {committed, FromCommitted, 4, tired}},
		},
		"it gives way to the one before it, too": {
			known{configured: committed, committed: previous, attempts: worn(3, committed)},
			[]candidate{{before, Earlier, 5, ""}, {committed, FromCommitted, 4, tired}},
		},
		"two boots that did not come up are not enough": {
			known{configured: committed, committed: previous, attempts: worn(2, committed)},
			[]candidate{{committed, FromCommitted, 4, ""}, {before, Earlier, 5, ""}},
		},
		"when neither comes up, the order is as if both did": {
			known{configured: configured, committed: record, attempts: worn(3, committed, configured)},
			[]candidate{{committed, FromCommitted, 4, tired}, {configured, Configured, 5, tired}},
		},
		"a soft-reboot's stack is never booted before it is committed": {
			known{configured: configured, committed: record, flight: trial(journal.SoftReboot, journal.Starting)},
			[]candidate{{committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"a kexec's stack is booted by the kernel that was started for it": {
			known{configured: configured, committed: record,
				flight: trial(journal.Kexec, journal.Starting), trial: TrialKey(other)},
			[]candidate{{other, Trial, 5, ""}, {committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"by no other kernel": {
			known{configured: configured, committed: record, flight: trial(journal.Kexec, journal.Starting)},
			[]candidate{{committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"nor by that of another stack": {
			known{configured: configured, committed: record, flight: trial(journal.Kexec, journal.Starting),
				trial: TrialKey(configured)},
			[]candidate{{committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"nor once it was judged": {
			known{configured: configured, committed: record,
				flight: trial(journal.Kexec, journal.RollingBack), trial: TrialKey(other)},
			[]candidate{{committed, FromCommitted, 4, ""}, {configured, Configured, 5, ""}},
		},
		"what the host starts on trial has one boot": {
			known{configured: other, committed: record, flight: trial(journal.Reboot, journal.Starting),
				attempts: worn(1, other)},
			[]candidate{{committed, FromCommitted, 4, ""}, {other, Configured, 5, failed}},
		},
		"a VM that never committed anything goes back to what it ran": {
			known{configured: other, flight: trial(journal.Reboot, journal.Starting), attempts: worn(1, other)},
			[]candidate{{committed, Earlier, 0, ""}, {other, Configured, 0, failed}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := candidates(test.known)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(candidate{})); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestTheTrialIsReadFromTheCommandLine(t *testing.T) {
	for line, want := range map[string]string{
		"": "", "console=ttyS0 quiet": "", "quiet sharedos.trial=0123456789abcdef\n": "0123456789abcdef",
		"xsharedos.trial=1": "", "sharedos.trial=a sharedos.trial=b": "a",
	} {
		if got := trialOf(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	if key := TrialKey(stackOf("a")); len(key) != 16 || !strings.HasPrefix(stackOf("a").Key(), key) {
		t.Errorf("the key of a trial is %q", key)
	}
}

func TestASoftRebootStartsWhatTheJournalSays(t *testing.T) {
	from, to := stackOf("base"), stackOf("base", "patch")
	for _, test := range []struct {
		flight *journal.Record
		want   *release.Stack
	}{
		{nil, nil},
		{&journal.Record{State: journal.Starting, Strategy: journal.SoftReboot, From: from, To: to}, &to},
		{&journal.Record{State: journal.RollingBack, Strategy: journal.SoftReboot, From: from, To: to}, &from},
		{&journal.Record{State: journal.Checking, Strategy: journal.SoftReboot, From: from, To: to}, nil},
		{&journal.Record{State: journal.Starting, Strategy: journal.Kexec, From: from, To: to}, nil},
		{&journal.Record{State: journal.RollingBack, Strategy: "live", From: from, To: to}, nil},
	} {
		if diff := cmp.Diff(test.want, test.flight.SoftRebootTo()); diff != "" {
			t.Errorf("%+v: -want +got\n%s", test.flight, diff)
		}
	}
}

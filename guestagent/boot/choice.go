package boot

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// maxAttempts is how often a stack is booted without coming up before another one is preferred.
	maxAttempts = 3
	// maxTrials is the same for a stack that is not committed.
	maxTrials = 1
)

// candidate is a stack that may be booted.
type candidate struct {
	stack      release.Stack
	origin     Origin
	generation uint64
	// deferred says why the candidate is tried only after all others; "" if it is not.
	deferred string
}

// known is what there is to choose from.
type known struct {
	// given is the host's stack, in the boot configuration.
	given     release.Stack
	committed *CommittedRecord
	attempts  AttemptsRecord
	flight    *journal.Record
	// trial is the value of TrialArgument.
	trial string
}

// candidates lists the stacks to boot, the preferred one first; the first whose layers are attached and verify
// is booted. An uncommitted stack is among them only if the host gives it, or if the kernel was started by kexec for
// just that stack.
//
// The committed stack is newer than the given one, unless the host gives another stack than it gave when the
// refresh was committed: then the host has moved on since. The one before the committed one comes last. A stack that
// did not come up maxAttempts times, or maxTrials times if it is not committed, is tried after all others, not never:
// it may be the only one that can be read.
func candidates(k known) []candidate {
	var order []candidate
	add := func(stack release.Stack, origin Origin, generation uint64) {
		same := func(c candidate) bool { return c.stack.Same(stack) }
		if len(stack.Layers) > 0 && !slices.ContainsFunc(order, same) {
			order = append(order, candidate{stack: stack, origin: origin, generation: generation, deferred: k.deferred(stack)})
		}
	}
	var generation uint64
	if k.committed != nil {
		generation = k.committed.Generation
	}
	if k.flight.StartsBy(journal.Kexec) && k.flight.State == journal.Starting && k.trial == TrialKey(k.flight.To) {
		add(k.flight.To, Trial, generation+1)
	}
	switch {
	case k.committed == nil:
		add(k.given, Given, 0)
	case k.given.Same(k.committed.Given):
		add(k.committed.Stack, FromCommitted, generation)
		add(k.given, Given, generation+1)
	default:
		if k.given.Same(k.committed.Stack) {
			add(k.given, FromCommitted, generation)
		}
		add(k.given, Given, generation+1)
		add(k.committed.Stack, FromCommitted, generation)
	}
	if k.committed != nil && k.committed.Previous != nil {
		add(*k.committed.Previous, Earlier, generation+1)
	}
	if k.flight != nil {
		add(k.flight.From, Earlier, generation) // nothing was ever committed, and the host gives what is on trial
	}
	slices.SortStableFunc(order, func(a, b candidate) int {
		return cmp.Compare(min(len(a.deferred), 1), min(len(b.deferred), 1))
	})
	return order
}

// deferred says why a stack is tried last; "" if it is not.
func (k known) deferred(stack release.Stack) string {
	limit := maxAttempts
	committed := k.committed != nil && k.committed.Stack.Same(stack)
	if k.flight.StartsBy(journal.Kexec, journal.Reboot) && k.flight.To.Same(stack) && !committed {
		limit = maxTrials
	}
	if n := k.attempts.of(stack); n >= limit {
		return fmt.Sprintf("it did not come up in %d boots", n)
	}
	return ""
}

package boot

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// maxAttempts is how many boots of a stack may fail before another stack is preferred.
	maxAttempts = 3
	// maxTrials is the same for an uncommitted stack.
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

// known is what the choice of a stack depends on.
type known struct {
	// configured is the stack in the domain's definition, which the host passed in the boot configuration.
	configured release.Stack
	// detaches is BootConfig.Detaches.
	detaches  int
	committed *CommittedRecord
	attempts  AttemptsRecord
	flight    *journal.Record
	// trial is the value of TrialArgument.
	trial string
}

// candidates returns the stacks to boot, the preferred one first. Init boots the first whose layers are attached and
// verify. An uncommitted stack is among them only if the VM is configured with it, or if kexec has started the kernel
// for just that stack.
//
// The committed stack is booted if the VM is configured as it was at the commit, or with the stack that the host had
// moved it to, and the host has not detached since what the VM had attached by itself. Otherwise the configured stack
// is newer, and comes first. The stack before the committed one comes last. A stack that failed in maxAttempts boots,
// or in maxTrials if it is uncommitted, is deferred, but not excluded: it may be the only one that can be read.
func candidates(k known) []candidate {
	var order []candidate
	add := func(stack release.Stack, origin Origin, generation uint64) {
		same := func(c candidate) bool { return c.stack.Same(stack) }
		if len(stack.Layers) > 0 && !slices.ContainsFunc(order, same) {
			order = append(order,
				candidate{stack: stack, origin: origin, generation: generation, deferred: k.deferred(stack)})
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
		add(k.configured, Configured, 0)
	case k.detaches == k.committed.Detaches && k.committed.follows(k.configured):
		add(k.committed.Stack, FromCommitted, generation)
		add(k.configured, Configured, generation+1)
	default:
		if k.configured.Same(k.committed.Stack) {
			add(k.configured, FromCommitted, generation)
		}
		add(k.configured, Configured, generation+1)
		add(k.committed.Stack, FromCommitted, generation)
	}
	if k.committed != nil && k.committed.Previous != nil {
		add(*k.committed.Previous, Earlier, generation+1)
	}
	if k.flight != nil {
		add(k.flight.From, Earlier,
			generation) // if nothing was ever committed and the VM is configured with the stack on trial
	}
	slices.SortStableFunc(order, func(a, b candidate) int {
		return cmp.Compare(min(len(a.deferred), 1), min(len(b.deferred), 1))
	})
	return order
}

// follows reports whether the committed stack is newer than the one that the VM is configured with.
func (c *CommittedRecord) follows(configured release.Stack) bool {
	return configured.Same(c.Configured) || c.Wanted != nil && configured.Same(*c.Wanted)
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

package boot

import (
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// maxAttempts is how often a stack is booted without coming up before another one is preferred.
const maxAttempts = 3

// candidate is a stack that may be booted.
type candidate struct {
	stack      release.Stack
	origin     Origin
	generation uint64
}

// candidates lists the stacks to boot, the preferred one first; the first whose layers are attached and verify
// is booted. An uncommitted stack is never among them, since only a commit writes the record.
//
// The committed stack is newer than the given one, unless the host gives another stack than it gave when the
// refresh was committed: then the host has moved on since. A stack that did not come up maxAttempts times is
// tried last, not never: it may be the only one that can be read.
func candidates(given release.Stack, committed *CommittedRecord, attempts AttemptsRecord) []candidate {
	if committed == nil {
		return []candidate{{stack: given, origin: Given}}
	}
	fromCommitted := candidate{stack: committed.Stack, origin: FromCommitted, generation: committed.Generation}
	key := StackKey(given)
	if key == StackKey(committed.Stack) {
		return []candidate{fromCommitted}
	}
	fromHost := candidate{stack: given, origin: Given, generation: committed.Generation + 1}
	order := []candidate{fromHost, fromCommitted}
	if key == StackKey(committed.Given) {
		order = []candidate{fromCommitted, fromHost}
	}
	slices.SortStableFunc(order, func(a, b candidate) int {
		return boolToInt(exhausted(a, attempts)) - boolToInt(exhausted(b, attempts))
	})
	return order
}

func exhausted(c candidate, attempts AttemptsRecord) bool {
	return attempts.Counts[StackKey(c.stack)] >= maxAttempts
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

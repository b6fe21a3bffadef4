package refresh

import (
	"runtime/debug"
	"sync"
)

// fastPercent is the garbage collector's target percentage during an assessment: it collects when the garbage is three
// times the live heap, a few megabytes. At rest the agent keeps its heap small, and collects about ten times as often.
const fastPercent = 300

// fast counts the callers of collectLess.
var fast struct {
	mutex  sync.Mutex
	count  int
	before int
}

// collectLess has the garbage collector run less often until done is called. A plan or a refresh waits for an
// assessment.
func collectLess() (done func()) {
	fast.mutex.Lock()
	defer fast.mutex.Unlock()
	if fast.count++; fast.count == 1 {
		fast.before = debug.SetGCPercent(fastPercent)
	}
	return func() {
		fast.mutex.Lock()
		defer fast.mutex.Unlock()
		if fast.count--; fast.count == 0 {
			debug.SetGCPercent(fast.before)
		}
	}
}

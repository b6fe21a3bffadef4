package refresh

import (
	"runtime/debug"
	"sync"
)

// hurriedPercent lets garbage lie while the agent is hurried: it is three times what lives, a few megabytes, before it
// is collected. At rest the agent keeps its heap small instead, and collects some ten times as often.
const hurriedPercent = 300

// hurried counts who is in a hurry.
var hurried struct {
	mutex  sync.Mutex
	count  int
	before int
}

// hurry has garbage collected less often until what it returns is called. An assessment is waited for, by a plan or by a
// refresh.
func hurry() (done func()) {
	hurried.mutex.Lock()
	defer hurried.mutex.Unlock()
	if hurried.count++; hurried.count == 1 {
		hurried.before = debug.SetGCPercent(hurriedPercent)
	}
	return func() {
		hurried.mutex.Lock()
		defer hurried.mutex.Unlock()
		if hurried.count--; hurried.count == 0 {
			debug.SetGCPercent(hurried.before)
		}
	}
}

package refresh

import (
	"errors"
	"slices"
	"testing"
)

// That /etc could not follow the stack that runs is pending until a refresh has brought it along.
func TestThatEtcIsOfAnotherStackIsPending(t *testing.T) {
	w := newWorld(t)
	w.behind = errors.New("/etc is of another stack")
	e, stop := w.engine()
	defer stop()
	pending := func(want bool) {
		t.Helper()
		status, err := e.Status()
		if err != nil || slices.Contains(status.Pending, w.behind.Error()) != want {
			t.Errorf("pending are %q (%v), want it among them: %v", status.Pending, err, want)
		}
	}
	pending(true)
	why := w.behind
	w.behind = nil
	w.give("one", "two")
	if status := w.refresh(e, w.ask("one", "two")); !status.Report.GetCommitted() {
		t.Fatalf("%v", status.Report)
	}
	w.behind = why
	pending(false)
}

package refresh

import (
	"runtime/debug"
	"testing"
)

func TestWhoeverIsHurriedLastGivesThePaceBack(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(15))
	pace := func() int {
		percent := debug.SetGCPercent(100)
		debug.SetGCPercent(percent)
		return percent
	}
	first, second := collectLess(), collectLess()
	if got := pace(); got != fastPercent {
		t.Errorf("hurried: %d %%", got)
	}
	first()
	if got := pace(); got != fastPercent {
		t.Errorf("one is hurried still: %d %%", got)
	}
	if second(); pace() != 15 {
		t.Errorf("nobody is hurried: %d %%", pace())
	}
}

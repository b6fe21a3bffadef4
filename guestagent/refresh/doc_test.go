package refresh

import (
	"os"
	"strings"
	"testing"
)

func TestTheGuideShowsTheStatesAsTheyAre(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../templates/guides/what-is-interrupted.md")
	if err != nil {
		t.Fatal(err)
	}
	var diagram strings.Builder
	for line := range strings.Lines(string(doc)) {
		if drawn, is := strings.CutPrefix(line, "//\t"); is {
			diagram.WriteString(drawn)
		}
	}
	if diagram.Len() == 0 || !strings.Contains(string(guide), "```\n"+diagram.String()+"```\n") {
		t.Errorf("the guide does not show the diagram of doc.go; put it there:\n%s", diagram.String())
	}
	for _, state := range []State{Idle, Staged, Verified, Carried, Starting, Swapped, Restarted, Checking, Committed, RollingBack} {
		if !strings.Contains(diagram.String(), string(state)) {
			t.Errorf("the diagram has no state %q", state)
		}
	}
}

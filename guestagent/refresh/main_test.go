package refresh

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// TestMain holds the diagram that operators are shown against what this package's tests saw the journal do: every
// transition that it shows happens, and none happens that it does not show.
func TestMain(m *testing.M) {
	code := matrix.Run(m)
	if !matrix.Chosen() && code == 0 {
		if err := compareDiagram("../../templates/guides/what-is-interrupted.md"); err != nil {
			fmt.Fprintln(os.Stderr, "the diagram of states and the journal differ:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// transitions are the steps "from --> to" that journals of this package's tests took.
var transitions struct {
	sync.Mutex
	seen map[string]bool
}

func seen(before *Record, next Record) {
	from := Idle
	if before != nil && before.State != "" {
		from = before.State
	}
	if from == next.State {
		return // more is known of the same state
	}
	transitions.Lock()
	defer transitions.Unlock()
	if transitions.seen == nil {
		transitions.seen = map[string]bool{}
	}
	transitions.seen[fmt.Sprintf("%s --> %s", from, next.State)] = true
}

// transition is a line of a Mermaid state diagram (https://mermaid.js.org/syntax/stateDiagram.html).
var transition = regexp.MustCompile(`(?m)^ +([a-z_]+ --> [a-z_]+)(?:: .*)?$`)

func compareDiagram(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	shown := map[string]bool{}
	for _, found := range transition.FindAllStringSubmatch(string(text), -1) {
		shown[found[1]] = true
	}
	var wrong []string
	for _, step := range slices.Sorted(maps.Keys(transitions.seen)) {
		if !shown[step] {
			wrong = append(wrong, "not in the diagram: "+step)
		}
	}
	for _, step := range slices.Sorted(maps.Keys(shown)) {
		if !transitions.seen[step] {
			wrong = append(wrong, "never taken: "+step)
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("%s:\n%s", path, strings.Join(wrong, "\n"))
	}
	return nil
}

package refresh

import (
	"errors"
	"fmt"
)

// maxAtOnce bounds how many units are restarted at the same time: each has a buffer of the agent's meanwhile, and a VM of many
// processors must not stop all of its services at once.
const maxAtOnce = 8

// AtOnce is how many units are restarted at the same time in a VM of so many processors: one for each two (design/0026).
func AtOnce(processors int) int { return min(max(1, processors/2), maxAtOnce) }

// inTurn acts on each of the names, in their order, on at most atOnce at the same time (less than one counts as one), and on
// none before it is through with those that it comes after. It returns when it is through with all that it began; after a
// failure it begins no other one, unless it is to go on.
func inTurn(names []string, after map[string][]string, atOnce int, goOn bool, begins func(name string), act func(name string) error) error {
	type outcome struct {
		name string
		err  error
	}
	outcomes := make(chan outcome)
	through := map[string]bool{}
	ready := func(name string) bool {
		for _, earlier := range after[name] {
			if !through[earlier] {
				return false
			}
		}
		return true
	}
	var failures []error
	for running := 0; ; {
		var waiting []string
		for _, name := range names {
			if running >= max(atOnce, 1) || !ready(name) || len(failures) > 0 && !goOn {
				waiting = append(waiting, name)
				continue
			}
			running++
			begins(name)
			go func() { outcomes <- outcome{name, act(name)} }()
		}
		names = waiting
		if running == 0 {
			if len(names) > 0 && (goOn || len(failures) == 0) {
				failures = append(failures, fmt.Errorf("units wait for what has no turn: %v", names))
			}
			return errors.Join(failures...)
		}
		one := <-outcomes
		running--
		through[one.name] = true
		if one.err != nil {
			failures = append(failures, one.err)
		}
	}
}

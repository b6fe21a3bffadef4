package refresh

import (
	"errors"
	"fmt"
)

// maxAtOnce bounds how many units are restarted at the same time: each needs a buffer in the agent, and a VM with many
// processors must not stop all of its services at once.
const maxAtOnce = 8

// AtOnce returns how many units are restarted at the same time in a VM with so many processors: one for two
// (design/0026).
func AtOnce(processors int) int { return min(max(1, processors/2), maxAtOnce) }

// inTurn calls act for each name, in their order, for at most atOnce names at the same time (at least one), and for
// none before the names in after[name] are finished. It returns when all calls have returned. After a failure it starts
// no further call, unless goOn is true.
func inTurn(names []string, after map[string][]string, atOnce int, goOn bool, begins func(name string),
	act func(name string) error) error {
	type outcome struct {
		name string
		err  error
	}
	outcomes := make(chan outcome)
	finished := map[string]bool{}
	ready := func(name string) bool {
		for _, earlier := range after[name] {
			if !finished[earlier] {
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
				failures = append(failures, fmt.Errorf("units wait for units that are not restarted: %v", names))
			}
			return errors.Join(failures...)
		}
		one := <-outcomes
		running--
		finished[one.name] = true
		if one.err != nil {
			failures = append(failures, one.err)
		}
	}
}

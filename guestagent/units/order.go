package units

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// Order sorts units so that each comes after those that it is to be started after, be it by way of a target
// ("a.service after x.target after b.service"), and after those that it is restarted with.
func (m *Manager) Order(ctx context.Context, names []string, facts map[string]impact.Unit) ([]string, error) {
	if len(names) < 2 {
		return names, nil
	}
	facts = maps.Clone(facts)
	err := m.converse(ctx, callLimit, func(c *conversation) error {
		asked := map[string]bool{}
		for open := slices.Clone(names); len(open) > 0; {
			var targets []string
			var questions []question
			for _, name := range open {
				for _, earlier := range facts[name].After {
					if asked[earlier] || !strings.HasSuffix(earlier, ".target") {
						continue
					}
					if asked[earlier] = true; len(asked) > maxFacts {
						return fmt.Errorf("order units: more than %d targets", maxFacts)
					}
					targets, questions = append(targets, earlier), append(questions, question{earlier, unitFace, "After"})
				}
			}
			answers, err := c.ask(questions)
			if err != nil {
				return err
			}
			for i, target := range targets {
				facts[target] = impact.Unit{Name: target, After: answers[i].texts}
			}
			open = targets
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return order(names, facts), nil
}

// order is Order of what is known. Units that wait for each other in a circle come in the order of their names.
func order(names []string, facts map[string]impact.Unit) []string {
	names = slices.Sorted(slices.Values(names))
	before := map[string][]string{}
	for leader, unit := range facts {
		for _, follower := range unit.Followers {
			before[follower] = append(before[follower], leader)
		}
	}
	ordered := make([]string, 0, len(names))
	visited := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if visited[name] {
			return
		}
		visited[name] = true
		earlier := slices.Concat(before[name], facts[name].After)
		slices.Sort(earlier)
		for _, other := range slices.Compact(earlier) {
			visit(other)
		}
		if _, wanted := slices.BinarySearch(names, name); wanted {
			ordered = append(ordered, name)
		}
	}
	for _, name := range names {
		visit(name)
	}
	return ordered
}

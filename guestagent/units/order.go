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
// ("a.service after x.target after b.service"), and after those that it is restarted with. It tells which ones these are;
// what waits for nothing that has not had its turn can have its own at the same time as others.
func (m *Manager) Order(ctx context.Context, names []string, facts map[string]impact.Unit) (ordered []string, after map[string][]string, err error) {
	if len(names) < 2 {
		return names, nil, nil
	}
	facts = maps.Clone(facts)
	err = m.converse(ctx, callLimit, func(c *conversation) error {
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
		return nil, nil, err
	}
	ordered, after = order(names, facts)
	return ordered, after, nil
}

// order is Order of what is known. Units that wait for each other in a circle come in the order of their names.
func order(names []string, facts map[string]impact.Unit) (ordered []string, after map[string][]string) {
	names = slices.Sorted(slices.Values(names))
	before := map[string][]string{}
	for leader, unit := range facts {
		for _, follower := range unit.Followers {
			before[follower] = append(before[follower], leader)
		}
	}
	// reached are, of each unit and target that was visited, those of the names that it comes after.
	reached := map[string]map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		if reached[name] != nil {
			return
		}
		own := map[string]bool{}
		reached[name] = own
		earlier := slices.Concat(before[name], facts[name].After)
		slices.Sort(earlier)
		for _, other := range slices.Compact(earlier) {
			visit(other)
			maps.Copy(own, reached[other])
			if _, wanted := slices.BinarySearch(names, other); wanted && other != name {
				own[other] = true
			}
		}
		if _, wanted := slices.BinarySearch(names, name); wanted {
			ordered = append(ordered, name)
		}
	}
	for _, name := range names {
		visit(name)
	}
	after = make(map[string][]string, len(ordered))
	for i, name := range ordered {
		for _, earlier := range ordered[:i] { // of a circle only what comes before
			if reached[name][earlier] {
				after[name] = append(after[name], earlier)
			}
		}
	}
	return ordered, after
}

package units

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// Order sorts units so that each comes after the units it is ordered after, also by way of a target or a service that
// is not among them ("a.service after x.target after b.service"), and after its leaders. after has, for each unit,
// those of the units that it must wait for. Units that wait for none can be restarted at the same time.
//
// The facts say which units are restarted together. The ordering is read again, since systemd may have read its units
// again since.
func (m *Manager) Order(ctx context.Context, names []string, facts map[string]impact.Unit) (ordered []string,
	after map[string][]string, err error) {
	if len(names) < 2 {
		return names, nil, nil
	}
	known := make(map[string]impact.Unit, len(facts))
	for name, unit := range facts {
		known[name] = impact.Unit{Name: name, Followers: unit.Followers}
	}
	err = m.connected(ctx, callLimit, func(c *connection) error {
		asked := map[string]bool{}
		open := slices.Clone(names)
		for _, name := range names {
			open = append(open, followersOf(name, facts)...)
		}
		for len(open) > 0 {
			var round []string
			var properties []property
			for _, name := range open {
				if asked[name] {
					continue
				}
				if asked[name] = true; len(asked) > maxFacts {
					return fmt.Errorf("order units: more than %d lead to each other", maxFacts)
				}
				round, properties = append(round, name), append(properties, property{name, unitInterface, "After"})
			}
			values, err := c.get(properties)
			if err != nil {
				return err
			}
			open = nil
			for i, name := range round {
				known[name] = impact.Unit{Name: name, Followers: known[name].Followers, After: values[i].texts}
				for _, earlier := range values[i].texts {
					if strings.HasSuffix(earlier, ".target") || strings.HasSuffix(earlier, ".service") {
						open = append(open, earlier)
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	ordered, after = order(names, known)
	return ordered, after, nil
}

// order is Order for known facts. Units that are ordered in a cycle come in the order of their names.
func order(names []string, facts map[string]impact.Unit) (ordered []string, after map[string][]string) {
	names = slices.Sorted(slices.Values(names))
	before := map[string][]string{}
	for leader, unit := range facts {
		for _, follower := range unit.Followers {
			before[follower] = append(before[follower], leader)
		}
	}
	// reached has, for each visited unit, those of the names that it comes after.
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
	// A follower waits for other units, too. While those are restarted, its leader must not restart it.
	with := make(map[string]map[string]bool, len(names))
	for _, name := range names {
		with[name] = map[string]bool{}
		for _, follower := range followersOf(name, facts) {
			visit(follower)
			maps.Copy(with[name], reached[follower])
		}
	}
	after = make(map[string][]string, len(ordered))
	for i, name := range ordered {
		for _, earlier := range ordered[:i] { // in a cycle, only for the units before it
			if reached[name][earlier] || with[name][earlier] || with[earlier][name] {
				after[name] = append(after[name], earlier)
			}
		}
	}
	return ordered, after
}

// followersOf returns the units that are restarted together with a unit, directly or by way of others.
func followersOf(name string, facts map[string]impact.Unit) (all []string) {
	seen := map[string]bool{name: true}
	for open := facts[name].Followers; len(open) > 0; {
		var next []string
		for _, follower := range open {
			if !seen[follower] {
				seen[follower] = true
				all, next = append(all, follower), append(next, facts[follower].Followers...)
			}
		}
		open = next
	}
	return all
}

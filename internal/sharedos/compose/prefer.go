package compose

import (
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Rival is what a component makes of a path that it changes; Entry is nil if it removes the path.
type Rival struct {
	Of    *release.Manifest
	Entry *tree.Entry
}

// ByPackages is the result of Settle for a path that is as the packages of all components make it together.
const ByPackages = -1

// Packaged reports whether a component consists of packages. What packages write to one path, the distribution's own
// tool settles.
func Packaged(m *release.Manifest) bool { return strings.HasPrefix(m.Input, "debian:") }

// Settle returns the index of the rival whose entry the joined tree has, or ByPackages. If rivals conflict, the most
// specific preference for the path decides and is returned, too. Without one the error is a Conflict.
func Settle(path string, rivals []Rival, prefer []release.Preference) (winner int, by *release.Preference, _ error) {
	first, second := conflicting(rivals)
	if first == nil {
		winner = ByPackages
		for i, one := range rivals {
			if !Packaged(one.Of) {
				winner = i
			}
		}
		return winner, nil, nil
	}
	by = preferenceFor(path, prefer)
	if by != nil {
		winner = slices.IndexFunc(rivals, func(one Rival) bool { return one.Of.Name == by.Component })
	}
	if by == nil || winner < 0 {
		return 0, nil, &Conflict{
			What: shown(path), First: first.Of.Name, Second: second.Of.Name,
			FirstMakes: EntryText(first.Entry), SecondMakes: EntryText(second.Entry),
		}
	}
	if Packaged(rivals[winner].Of) {
		winner = ByPackages
	}
	return winner, by, nil
}

// conflicting returns two rivals that make different things of a path, unless packages of both do;
// nil if there are none.
func conflicting(rivals []Rival) (first, second *Rival) {
	for j := range rivals {
		for i := range rivals[:j] {
			a, b := &rivals[i], &rivals[j]
			if (!Packaged(a.Of) || !Packaged(b.Of)) && !Same(a.Entry, b.Entry) {
				return a, b
			}
		}
	}
	return nil, nil
}

// preferenceFor returns the preference with the longest path that covers a path; nil if there is none.
func preferenceFor(path string, prefer []release.Preference) (longest *release.Preference) {
	for i := range prefer {
		if prefer[i].Covers(path) && (longest == nil || len(prefer[i].Path) > len(longest.Path)) {
			longest = &prefer[i]
		}
	}
	return longest
}

// Preferences tells the preferences of the stack that settle something from those that settle nothing. A conflict that
// no preference settles is left to others to find.
func (p Parts) Preferences(lists Lists) (used, unused []release.Preference, _ error) {
	if len(p.Prefer) == 0 || len(p.Components) < 2 {
		return nil, p.Prefer, nil
	}
	settles := map[string]bool{}
	err := p.visit(lists, func(path string, base *tree.Entry, components []*tree.Entry) error {
		var rivals []Rival
		for i, own := range components {
			if !Same(base, own) {
				rivals = append(rivals, Rival{p.Components[i].Manifest, own})
			}
		}
		if len(rivals) < 2 {
			return nil
		}
		if _, by, err := Settle(path, rivals, p.Prefer); err == nil && by != nil {
			settles[by.Path] = true
		}
		return nil
	})
	for _, one := range p.Prefer {
		if settles[one.Path] {
			used = append(used, one)
		} else {
			unused = append(unused, one)
		}
	}
	return used, unused, err
}

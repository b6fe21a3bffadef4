package impact

import (
	"slices"
	"strings"
)

// Start is a unit that a release enables. A package manager would start it when it installs the unit's package.
type Start struct {
	Unit string `json:"unit"`
	// By is the unit that wants or requires it, Path the link that enables it, relative to the root.
	By   string `json:"by"`
	Path string `json:"path"`
	// Skipped says why it is not started; "" if it is.
	Skipped string `json:"skipped,omitempty"`

	user bool
}

// starts decides which of the newly enabled units are started. A unit that runs already is left
// out. A unit of which several want the start is started if one of them is active. A unit that the
// new stack has no more, and of which it has a stand-in, is started again as that.
func starts(changes *Changes, units map[string]Unit, policy Policy) (all []Start) {
	enabled := changes.Enabled()
	active := func(name string) bool {
		return units[name].runs() ||
			slices.ContainsFunc(all, func(s Start) bool { return s.Unit == name && !s.user && s.Skipped == "" })
	}
	for range enabled { // one unit can enable the next
		before := len(all)
		for _, one := range enabled {
			at := slices.IndexFunc(all,
				func(s Start) bool { return s.Path == one.Path || s.Unit == one.Unit && !one.User && !s.user })
			unit, known := units[one.Unit]
			start := Start{
				Unit: one.Unit, By: one.By, Path: one.Path,
				Skipped: whyNotStarted(one, unit, active(one.By), policy), user: one.User,
			}
			switch {
			case one.Before && known && !unit.Masked: // it was enabled before: its file only moved
			case one.Script && unit.Fragment != "" && !strings.HasPrefix(unit.Fragment, "run/") &&
				!changes.removes(unit): // it has a unit file
			case unit.runs() && !one.User && !changes.removes(unit):
			case at < 0:
				all = append(all, start)
			case all[at].Skipped != "" && start.Skipped == "":
				all[at], before = start, -1
			}
		}
		if len(all) == before {
			break
		}
	}
	slices.SortFunc(all, func(a, b Start) int { return strings.Compare(a.Unit, b.Unit) })
	return all
}

// whyNotStarted says why a newly enabled unit is not started; "" if it is.
func whyNotStarted(one Enabled, unit Unit, active bool, policy Policy) string {
	switch {
	case one.User:
		return "it is a unit of users' own service managers, which start it at the next login"
	case unit.Masked && !one.Before:
		return "it is masked"
	case !active:
		return one.By + " is not active"
	case policy.action(one.Unit) == Report:
		return "the policy is to report it"
	}
	return ""
}

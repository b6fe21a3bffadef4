package impact

import (
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// follow adds the units that the manager restarts along with those that are restarted, or stops along with those that
// are stopped, whatever they use and whatever the user wants of them.
func (a *Assessment) follow(units map[string]Unit, agent string) {
	var leaders []string
	for _, affected := range a.Affected {
		if affected.Kept == "" && affected.Level == agentapi.Level_RESTART {
			leaders = append(leaders, affected.Unit)
		}
	}
	slices.Sort(leaders)
	for len(leaders) > 0 {
		leader := leaders[0]
		leaders = leaders[1:]
		at := slices.IndexFunc(a.Affected, func(x Affected) bool { return x.Unit == leader })
		gone := a.Affected[at].Gone
		for _, name := range slices.Sorted(slices.Values(units[leader].Followers)) {
			if name == agent || !units[name].runs() {
				continue
			}
			if a.takeAlong(name, leader, gone) {
				leaders = append(leaders, name)
			}
		}
	}
}

// takeAlong has a unit restarted, or stopped, with another one; it returns false if it is restarted anyway.
func (a *Assessment) takeAlong(name, leader string, gone bool) bool {
	at := slices.IndexFunc(a.Affected, func(x Affected) bool { return x.Unit == name })
	if at < 0 {
		a.Unaffected = slices.DeleteFunc(a.Unaffected, func(unaffected string) bool { return unaffected == name })
		a.Affected = append(a.Affected, Affected{Unit: name})
		at = len(a.Affected) - 1
	}
	affected := &a.Affected[at]
	if affected.Kept == "" && affected.Level == agentapi.Level_RESTART {
		return false
	}
	affected.Level, affected.Kept, affected.Left, affected.session = agentapi.Level_RESTART, "", false, false
	affected.With, affected.Gone = true, gone
	affected.Reason = "it is restarted with " + leader
	if gone {
		affected.Reason = "it is stopped with " + leader
	}
	return true
}

package impact

import (
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// spare keeps units whose restart would end another one that must not be interrupted: systemd stops what follows a unit
// together with it. A unit that the new stack has no more cannot be kept: the change takes a soft-reboot.
func (a *Assessment) spare(units map[string]Unit, agent string) {
	for i := range a.Affected {
		leader := &a.Affected[i]
		if !leader.Outcome.Interrupts() {
			continue
		}
		for _, name := range following(units, leader.Unit) {
			why := ""
			switch follower := units[name]; {
			case name == agent || !follower.runs():
			case follower.Once:
				why = name + " is in progress, and would be ended with it"
			case follower.Refuses:
				why = name + " refuses to be stopped by hand, and would be stopped with it"
			}
			if why == "" {
				continue
			}
			if leader.Outcome.Stops() {
				a.Level = max(a.Level, agentapi.Level_SOFT_REBOOT)
				a.Reasons = append(a.Reasons, leader.Unit+" is no part of the new stack: "+why)
			} else {
				leader.Outcome, leader.KeptBecause = Kept, why
			}
			break
		}
	}
}

// following returns the units that systemd stops together with a unit, sorted.
func following(units map[string]Unit, leader string) []string {
	found := map[string]bool{leader: true}
	left := []string{leader}
	for len(left) > 0 {
		unit := units[left[0]]
		left = left[1:]
		for _, name := range unit.Followers {
			if !found[name] && units[name].runs() {
				found[name] = true
				left = append(left, name)
			}
		}
	}
	delete(found, leader)
	return slices.Sorted(maps.Keys(found))
}

// follow adds the units that systemd restarts together with those that are restarted, or stops together with those that
// are stopped, whatever these units use and whatever the policy for them is.
func (a *Assessment) follow(units map[string]Unit, agent string) {
	var leaders []string
	for _, affected := range a.Affected {
		if affected.Outcome.Interrupts() {
			leaders = append(leaders, affected.Unit)
		}
	}
	slices.Sort(leaders)
	for len(leaders) > 0 {
		leader := leaders[0]
		leaders = leaders[1:]
		stops := a.Affected[a.index(leader)].Outcome.Stops()
		for _, name := range slices.Sorted(slices.Values(units[leader].Followers)) {
			if name == agent || !units[name].runs() {
				continue
			}
			if a.takeAlong(name, leader, stops) {
				leaders = append(leaders, name)
			}
		}
	}
}

// takeAlong notes that systemd restarts or stops a unit together with its leader. It returns false if the unit is
// interrupted anyway.
func (a *Assessment) takeAlong(name, leader string, stops bool) bool {
	at := a.index(name)
	if at < 0 {
		a.Unaffected = slices.DeleteFunc(a.Unaffected, func(unaffected string) bool { return unaffected == name })
		a.Affected = append(a.Affected, Affected{Unit: name})
		at = len(a.Affected) - 1
	}
	affected := &a.Affected[at]
	if affected.Outcome.Interrupts() {
		return false
	}
	affected.Outcome, affected.KeptBecause = RestartedAlong, ""
	affected.Reason = "it is restarted with " + leader
	if stops {
		affected.Outcome, affected.Reason = StoppedAlong, "it is stopped with "+leader
	}
	return true
}

// index finds an affected unit, -1 if it is not affected.
func (a *Assessment) index(name string) int {
	return slices.IndexFunc(a.Affected, func(x Affected) bool { return x.Unit == name })
}

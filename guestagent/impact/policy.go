package impact

import (
	"path"
	"slices"
	"strings"
)

// Action is what a refresh may do with an affected unit.
type Action string

// The actions. "" is Restart.
const (
	// Restart the unit, or reload it if it can be reloaded and that is enough for the change.
	Restart Action = "restart"
	// Reload the unit if it can be reloaded, whatever changed, and leave it alone otherwise.
	Reload Action = "reload"
	// Report the unit and leave it alone.
	Report Action = "report"
)

// Policy is what the user and the system ask for beyond what is found in the VM.
type Policy struct {
	// Agent is the unit of this program. It is not part of the stack, and a refresh leaves it alone.
	Agent string
	// Default is what may be done with services, Actions what may be done with single units, systemd and the message
	// bus among them.
	Default Action
	Actions map[string]Action
	// Extra are further paths, by unit and relative to the root, whose change affects the unit.
	Extra map[string][]string
	// RunningKernel and TargetKernel are kernel releases.
	RunningKernel, TargetKernel string
	// Obstacle says why /usr cannot be swapped live here; "" if it can.
	Obstacle string
}

// modules is the directory of the running kernel's modules. A swap keeps them whatever the new stack brings, so using
// them (systemd-udevd maps their index) does not affect a unit.
func (p Policy) modules() string {
	return "usr/lib/modules/" + p.RunningKernel + "/"
}

// action is what may be done with a unit.
func (p Policy) action(unit string) Action {
	if action, named := p.Actions[unit]; named {
		return action
	}
	if action, named := p.Actions[Template(unit)]; named {
		return action
	}
	if unit == ManagerUnit || busUnit(unit) {
		return Restart // neither is interrupted by a re-execution or a reload
	}
	return p.Default
}

// ByAliases has what the policy says of a unit by another name of it, such as mysql.service for mariadb.service, count for
// the unit, unless the policy names the unit itself. units are what systemd knows of the names in the policy.
func (p Policy) ByAliases(units map[string]Unit) {
	for name, unit := range units {
		own := path.Base(unit.Fragment)
		if unit.Fragment == "" || own == name || own == Template(name) || strings.Contains(own, "@.") || path.Ext(own) != path.Ext(name) {
			continue
		}
		if action, named := p.Actions[name]; named {
			if _, itself := p.Actions[own]; !itself {
				p.Actions[own] = action
			}
		}
		for _, extra := range p.Extra[name] {
			if !slices.Contains(p.Extra[own], extra) {
				p.Extra[own] = append(p.Extra[own], extra)
			}
		}
		if _, known := units[own]; !known {
			unit.Name = own
			units[own] = unit
		}
	}
}

// apply changes the outcome of a unit that would be renewed to what the user's policy allows.
func (p Policy) apply(affected *Affected, unit Unit) {
	switch p.action(affected.Unit) {
	case Report:
		affected.Outcome, affected.KeptBecause = KeptByPolicy, "the policy is to report it"
	case Reload:
		switch {
		case affected.Outcome == Reloaded:
		case unit.CanReload && affected.Outcome == Restarted:
			affected.Outcome = Reloaded
		default:
			affected.Outcome, affected.KeptBecause = KeptByPolicy, "the policy is to reload it, and it cannot be reloaded"
		}
	}
}

package impact

import (
	"maps"
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

// actions are all actions, from the one that interrupts least.
var actions = []Action{Report, Reload, Restart}

// Names are the units that the policy names, sorted.
func (p Policy) Names() []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(p.Actions)), maps.Keys(p.Extra))
	slices.Sort(names)
	return slices.Compact(names)
}

// extra are the further paths of a unit.
func (p Policy) extra(unit string) []string {
	return slices.Concat(p.Extra[unit], p.Extra[Template(unit)])
}

// ByAliases has what the policy says of a unit by another name of it, such as mysql.service for mariadb.service,
// count for the unit, unless the policy names the unit itself. If it names several other names, the action counts
// that interrupts least. units are what systemd knows of the names in the policy, changes may bring further names.
func (p Policy) ByAliases(units map[string]Unit, changes *Changes) {
	itself := slices.Collect(maps.Keys(p.Actions))
	for _, name := range p.Names() {
		unit, known := units[name]
		own := ownName(name, unit.Fragment)
		if !known {
			own = ownName(name, changes.aliases[name])
		}
		if own == "" {
			continue
		}
		if action, is := p.Actions[name]; is && !slices.Contains(itself, own) {
			if other, both := p.Actions[own]; !both || slices.Index(actions, action) < slices.Index(actions, other) {
				p.Actions[own] = action
			}
		}
		for _, extra := range p.Extra[name] {
			if !slices.Contains(p.Extra[own], extra) {
				p.Extra[own] = append(p.Extra[own], extra)
			}
		}
		delete(p.Actions, name) // it is one unit, whatever it is called
		delete(p.Extra, name)
		if _, listed := units[own]; known && !listed {
			unit.Name = own
			units[own] = unit
		}
	}
}

// ownName returns the name of a unit itself if name is another name of it: that of its file, with the instance
// if the file is a template's. It returns "" if name is the unit's own, and if the file does not say.
func ownName(name, file string) string {
	own := path.Base(file)
	prefix, suffix, template := strings.Cut(own, "@.")
	if template {
		_, instance, instantiated := strings.Cut(name, "@")
		if !instantiated || suffix != strings.TrimPrefix(path.Ext(name), ".") {
			return "" // another name of one instance
		}
		own = prefix + "@" + instance
	}
	if file == "" || own == name || path.Ext(own) != path.Ext(name) {
		return ""
	}
	return own
}

// unmatched returns the units that the policy names and that neither the system has nor the changes bring.
func (p Policy) unmatched(units map[string]Unit, changes *Changes) (names []string) {
	for _, name := range p.Names() {
		if _, known := units[name]; !known && !changes.names(name) {
			names = append(names, name)
		}
	}
	return names
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
			affected.Outcome, affected.KeptBecause = KeptByPolicy,
				"the policy is to reload it, and it cannot be reloaded"
		}
	}
}

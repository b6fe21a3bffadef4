package impact

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"

// Action is what a refresh may do with a unit that is affected.
type Action string

// The actions. "" is Restart.
const (
	// Restart it, or reload it where it can be reloaded and the change allows that.
	Restart Action = "restart"
	// Reload it where it can be reloaded, whatever changed, and leave it alone otherwise.
	Reload Action = "reload"
	// Report it and leave it alone.
	Report Action = "report"
)

// Policy is what the user or the system wants beyond what is found.
type Policy struct {
	// Agent is the unit of this program. It is not from the stack and never touched.
	Agent string
	// Default is what may be done with services. Actions tells it by unit, for the manager and the message bus too.
	Default Action
	Actions map[string]Action
	// Extra names, by unit, further paths (relative to the root) whose change affects it.
	Extra map[string][]string
	// RunningKernel and TargetKernel are kernel releases.
	RunningKernel, TargetKernel string
	// Obstacle says why /usr cannot be swapped live here; "" if it can.
	Obstacle string
}

// modules is where the modules of the running kernel are. A swap keeps them whatever the new stack brings, so who
// uses them (systemd-udevd maps their index) is not concerned.
func (p Policy) modules() string {
	return "usr/lib/modules/" + p.RunningKernel + "/"
}

// action is what may be done with a unit.
func (p Policy) action(unit string) Action {
	if action, named := p.Actions[unit]; named {
		return action
	}
	if unit == ManagerUnit || busUnit(unit) {
		return Restart // neither is interrupted by what is done with it
	}
	return p.Default
}

// apply has a unit that would be renewed treated as the user wants.
func (p Policy) apply(affected *Affected, unit Unit) {
	switch p.action(affected.Unit) {
	case Report:
		affected.Kept, affected.Left = "the policy is to report it", true
	case Reload:
		switch {
		case affected.Level == agentapi.Level_RELOAD:
		case unit.CanReload && !affected.Gone:
			affected.Level = agentapi.Level_RELOAD
		default:
			affected.Kept, affected.Left = "the policy is to reload it, and it cannot be reloaded", true
		}
	}
}

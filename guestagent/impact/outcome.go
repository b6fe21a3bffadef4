package impact

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"

// Outcome is what a live refresh does with a unit that uses what changes.
type Outcome int

// The outcomes. Those from Kept on leave the unit as it is.
const (
	// Reloaded: the unit reads its configuration again. systemd itself is re-executed in place.
	Reloaded Outcome = iota + 1
	// Restarted: the unit is stopped and started.
	Restarted
	// TakenOver: the unit is a stand-in of a component on demand (standInUnits). It is restarted as the component's own
	// unit, while its start job still runs.
	TakenOver
	// RestartedAlong: systemd restarts the unit together with another unit, which it requires or is part of.
	RestartedAlong
	// Stopped: the new stack has no such unit any more.
	Stopped
	// StoppedAlong: systemd stops the unit together with another unit that is stopped.
	StoppedAlong
	// Kept: the unit cannot be renewed in a running system.
	Kept
	// KeptByPolicy: the user's policy is to leave the unit alone.
	KeptByPolicy
	// KeptInSession: the unit belongs to the session of a user.
	KeptInSession
)

// Keeps reports whether the unit is left as it is.
func (o Outcome) Keeps() bool { return o >= Kept }

// Interrupts reports whether the unit is stopped, be it that it is started again.
func (o Outcome) Interrupts() bool { return o >= Restarted && o <= StoppedAlong }

// Stops reports whether the unit does not run afterwards.
func (o Outcome) Stops() bool { return o == Stopped || o == StoppedAlong }

// Along reports whether systemd does it together with another unit.
func (o Outcome) Along() bool { return o == RestartedAlong || o == StoppedAlong }

// Level is the impact of the outcome.
func (o Outcome) Level() agentapi.Level {
	switch {
	case o == Reloaded:
		return agentapi.Level_RELOAD
	case o.Interrupts():
		return agentapi.Level_RESTART
	default:
		return agentapi.Level_NONE
	}
}

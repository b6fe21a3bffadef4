package agentapi

import "strings"

// Started reports whether systemd has started what it was to start, by its state as systemctl is-system-running prints
// it. What failed to start is for others to judge.
func Started(state string) bool {
	switch state {
	case "running", "degraded", "maintenance":
		return true
	default:
		return false
	}
}

const renewal = "renew "

// RenewalOf names the time that one unit's restart or reload took, with all that is asked about it. It is a part of the
// step "restart", or of "roll back".
func RenewalOf(unit string) string { return renewal + unit }

// IsRenewal reports whether a step of a refresh is a part of another one, as RenewalOf names it.
func IsRenewal(step string) bool { return strings.HasPrefix(step, renewal) }

// comeUp is the step in which everything of a started stack comes up. It is a part of the step "start".
const comeUp = "come up"

// Timeline returns the steps of a refresh that follow one another, in their order: without those
// that are parts of others.
func (r *Report) Timeline() (steps []*Timing) {
	for _, one := range r.GetTimings() {
		if !IsRenewal(one.GetStep()) && one.GetStep() != comeUp {
			steps = append(steps, one)
		}
	}
	return steps
}

// Milliseconds is how long the step took. A negative time, which a guest can tell, is none.
func (t *Timing) Milliseconds() float64 { return float64(max(t.GetMicros(), 0)) / 1000 }

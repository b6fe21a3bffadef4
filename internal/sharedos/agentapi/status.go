package agentapi

import "strings"

// Started reports whether systemd has started what it was to start, by its state as systemctl is-system-running prints it. What
// failed to start is for others to judge.
func Started(state string) bool {
	switch state {
	case "running", "degraded", "maintenance":
		return true
	default:
		return false
	}
}

const partOfRestart = "renew "

// RenewalOf names the time that one unit's restart or reload took, with all that is asked about it. It is a part of the step
// "restart".
func RenewalOf(unit string) string { return partOfRestart + unit }

// PartOfRestart reports whether a step of a refresh is a part of the step "restart".
func PartOfRestart(step string) bool { return strings.HasPrefix(step, partOfRestart) }

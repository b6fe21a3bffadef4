package refresh

import "github.com/sharedos/terraform-provider-sharedos/guestagent/journal"

// The journal's words, by short names.
type (
	State   = journal.State
	Record  = journal.Record
	Planned = journal.Planned
	// Rung is a strategy as a step of the ladder: each rung does what those below do, and more.
	Rung = journal.Strategy
)

// The states of a refresh.
const (
	Idle        = journal.Idle
	Staged      = journal.Staged
	Verified    = journal.Verified
	Carried     = journal.Carried
	Starting    = journal.Starting
	Swapped     = journal.Swapped
	Restarted   = journal.Restarted
	Checking    = journal.Checking
	Committed   = journal.Committed
	RollingBack = journal.RollingBack
)

// The rungs.
const (
	Live       = journal.Live
	SoftReboot = journal.SoftReboot
	Kexec      = journal.Kexec
	Reboot     = journal.Reboot
	NextBoot   = journal.NextBoot
)

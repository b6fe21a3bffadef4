package faults

import (
	"slices"
	"testing"
)

// TestOldOrNewWhateverFailsAroundTheGuest has the agent killed before and after everything that a refresh journals, and in the
// middle of what it does in between; and then what is around the agent fail.
func TestOldOrNewWhateverFailsAroundTheGuest(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newSubject(t, "faults", nil)
	s.covers(t, forward, false)
	s.covers(t, back, true)
	t.Run("agent", func(t *testing.T) {
		for _, at := range forward {
			s.killed(t, at, false)
		}
		for _, at := range back {
			s.killed(t, at, true)
		}
	})
	t.Run("trust", s.refusesWhatIsNotTrusted)
	t.Run("together", s.takesOneRefreshAtATime)
	t.Run("damage", s.refusesDamage)
	t.Run("provider", s.survivesTheProvider)
	t.Run("libvirtd", s.survivesLibvirt)
	t.Run("peers", s.servesAmongHostilePeers)
	t.Run("connections", s.survivesBrokenConnections)
	t.Run("impostor", s.survivesAnImpostor)
	// Before the guest was ever started with the second release: what it boots after a commit that its definition does not
	// tell yet depends on what it was started with.
	t.Run("start", s.startsWhenItIsKilled)
	t.Run("vsock", s.endsWithoutVSock)
	t.Run("takeover", s.survivesTakeovers)
	t.Run("boot", s.bootsWithoutDamage) // here, since the other guest has as much to do already
}

// TestOldOrNewWhenThePowerIsCut has the power cut at the same steps, the last first, but only once where the disk is the
// same; and then in refreshes that start the new stack.
func TestOldOrNewWhenThePowerIsCut(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newSubject(t, "power", nil)
	there, wayBack := s.moments(t, forward, false), s.moments(t, back, true)
	for _, at := range slices.Backward(there) {
		s.cut(t, at, false, false)
	}
	for _, at := range slices.Backward(wayBack) {
		s.cut(t, at, true, false)
	}
	t.Run("start", s.staysWithoutPower)
}

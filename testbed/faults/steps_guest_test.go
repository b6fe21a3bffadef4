package faults

import "testing"

// TestOldOrNewWhateverFailsAroundTheGuest kills the agent at each moment at which a refresh leaves
// another private disk, and then lets fail what is around the agent.
//
// Package crashtest kills the agent at every point, each in a refresh of its own. Here two kills
// share a refresh, which takes the time of one: the agent gives up a refresh that three agents have
// not finished. A rollback is never given up.
func TestOldOrNewWhateverFailsAroundTheGuest(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newSubject(t, "faults", nil)
	t.Run("agent", func(t *testing.T) {
		s.converge(t, s.killed(t, false, forward[0])) // it leaves no journal, so that the refresh is over
		rest := forward[1:]
		for i := range len(rest) / 2 {
			s.converge(t, s.killed(t, false, rest[i], rest[i+len(rest)/2]))
		}
		s.converge(t, s.killed(t, true, back...))
	})
	t.Run("trust", s.refusesWhatIsNotTrusted)
	t.Run("together", s.takesOneRefreshAtATime)
	t.Run("damage", s.refusesDamage)
	t.Run("provider", s.survivesTheProvider)
	t.Run("libvirtd", s.survivesLibvirt)
	t.Run("peers", s.servesAmongHostilePeers)
	t.Run("connections", s.survivesBrokenConnections)
	t.Run("impostor", s.survivesAnImpostor)
	// These two come before the guest is first started with the second release: after a commit that the
	// definition does not name yet, the boot depends on the release with which the guest was started.
	t.Run("start", s.startsWhenItIsKilled)
	t.Run("vsock", s.endsWithoutVSock)
	t.Run("takeover", s.survivesTakeovers)
	t.Run("boot", s.bootsWithoutDamage)
}

// TestOldOrNewWhenThePowerIsCut cuts the power at each moment of a refresh, of a rollback and of a refresh
// by a soft-reboot: one refresh each leaves copies of the private disk, from which the guest boots then.
func TestOldOrNewWhenThePowerIsCut(t *testing.T) {
	t.Parallel()
	s := newWorld(t).newSubject(t, "power", nil)
	from := s.at
	there := s.copyAtEach(t, forward, false)
	s.mustEnd(t, newStack)
	s.mustKnow(t)
	rollsFrom := s.at
	rolledBack := s.copyAtEach(t, back, true)
	s.mustEnd(t, oldStack)
	s.mustKnow(t, back...)
	s.boots(t, there, from, false, true)
	s.boots(t, rolledBack, rollsFrom, true, true)
	t.Run("start", s.staysWithoutPower)
}

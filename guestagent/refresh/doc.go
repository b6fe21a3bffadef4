// Package refresh moves a running VM from its stack to another, and ends on the one or the other whatever happens
// in between.
//
// It is a state machine whose every state is on the private disk before it is acted on:
//
//	idle → staged → verified ─┬→ swapped → restarted ─┬→ checking → committed → idle
//	           │        │     └→ carried → starting ──┘      │
//	           └────┬───┘          │          │              │
//	                │         any of these, once something has changed
//	                └→ refused → idle         └→ rolling_back → idle
//
// Two ways lead from the old stack to the new one. Live swaps /usr and restarts what uses what changed. The rungs above
// it (see Rung) carry /etc and have the new stack started: by a soft-reboot, by kexec, or by the host. The agent ends on
// that way; the next one finds in which root it runs, and goes on from there: to checking if that is the new stack's, and
// else to the end of a refresh that did not come about. Which way is taken is one decision for the plan and the refresh
// (climb).
//
// Before swapped and carried nothing of the running system has changed, so a failure there is a refusal. From there on, a
// failure undoes what was done, by the same means: a stack that was started is left by starting the old one. A state is a
// Go type, and the transitions are its methods: an illegal one does not compile. An agent that finds a journal when it
// starts goes on or goes back from whichever state that tells; all that a state does can be done again.
//
// What a transition does to the system is behind the interfaces of seams.go.
package refresh

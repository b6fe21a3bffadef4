// Package refresh moves a running VM from its stack to another one. Whatever happens in between, the VM ends on one of
// the two.
//
// It is a state machine. Every state is journaled on the private disk before it is acted on:
//
//	idle → staged → verified ─┬→ swapped → restarted ─┬→ checking → committed → idle
//	           │        │     └→ carried → starting ──┘      │
//	           └────┬───┘          │          │              │
//	                │         any of these, once something has changed
//	                └→ refused → idle         └→ rolling_back → idle
//
// The new stack takes effect in one of two ways. A live refresh swaps /usr and restarts what uses what changed. The
// rungs above it (Rung) carry /etc and have the new stack started: by a soft-reboot, by kexec, or by the host. That
// ends the agent. The agent that starts next finds out in which root it runs, and goes on: with checking if that is the
// new stack's root, and with the end of a failed refresh otherwise. The plan and the refresh choose the rung by the
// same function (climb).
//
// Before swapped and carried nothing of the running system has changed, so a failure there is a refusal. From there on
// a failure is rolled back by the same means: if the new stack was started, the old one is started again.
//
// carryOut is the one loop over the states, act has one function for each of them. An agent that finds a refresh in its
// journal when it starts goes on from the state there, so everything that a state does can be done twice.
//
// The package is pure: what a state does to the system is behind the interfaces of seams.go, which package live
// implements.
package refresh

// Package refresh moves a running VM from its stack to another, and ends on the one or the other whatever happens
// in between.
//
// It is a state machine whose every state is on the private disk before it is acted on:
//
//	idle → staged → verified → swapped → restarted → checking → committed → idle
//	           └────┬────┘         └───────────┬─────────┘
//	                └→ refused → idle          └→ rolling_back → idle
//
// Before swapped nothing of the running system has changed, so a failure there is a refusal. From swapped on, a
// failure undoes what was done, by the same means. A state is a Go type, and the transitions are its methods: an
// illegal one does not compile. An agent that finds a journal when it starts goes on or goes back from whichever
// state that tells; all that a state does can be done again.
//
// What a transition does to the system is behind the interfaces of seams.go.
package refresh

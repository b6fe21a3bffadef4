// Package faults has what befalls refreshes happen to real guests, at each step, and looks at how that ends: on the
// old stack or on the new one, with /usr, /etc, services and the agent's records all of the same.
//
// Guests run an agent built with the tag "faults" (package failpoint).
package faults

// Package faults makes things fail during refreshes of real guests, and checks that each refresh ends on the
// old stack or on the new one: /usr, /etc, the services and the agent's records all belong to the same stack.
//
// The guests run an agent with failpoints (package failpoint). Package crashtest tries more points
// than there is time for in guests, with the kernel of the host.
package faults

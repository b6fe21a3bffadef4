// Package agentlife tests, in real guests, what an agent lives through: another one that takes over, private disks that
// grow, fill up or turn read-only, layers that somebody holds, clocks that jump, and many refreshes in a row.
package agentlife

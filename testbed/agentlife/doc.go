// Package agentlife tests, in one real guest, the events in the life of an agent: newer agents that take over,
// private disks that grow, fill up or become read-only, layers that are in use, clocks that jump, and many
// refreshes in a row.
package agentlife

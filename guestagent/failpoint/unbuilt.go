//go:build !faults

package failpoint

// Built reports whether this build has failpoints.
const Built = false

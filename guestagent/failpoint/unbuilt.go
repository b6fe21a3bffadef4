//go:build !faults

package failpoint

// Built tells whether this build has points.
const Built = false

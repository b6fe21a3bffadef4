// Package failpoint lets tests with a real guest have the agent killed, held or failed at a named point.
//
// Only a build with the tag "faults" has points. A call is written
//
//	if failpoint.Built {
//		if err := failpoint.Hit("before journal swapped"); err != nil {
//			return err
//		}
//	}
//
// and leaves no instruction and no string in any other build. Which points strike is told by a file that only root
// can write; without it a point does nothing.
package failpoint

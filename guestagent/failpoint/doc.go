// Package failpoint lets tests kill or pause the agent, or make an operation fail, at a named point of its code.
//
// Only a build with the tag "faults" has failpoints. A call is written
//
//	if failpoint.Built {
//		if err := failpoint.Hit("before journal swapped"); err != nil {
//			return err
//		}
//	}
//
// and adds no instruction and no string to any other build. A file that only root can write lists the points that
// trigger and what they do. Without that file no point does anything.
package failpoint

// Package etcmerge carries the configuration of a running VM from one release to the next, and back.
//
// Each file is merged three-way: the old release's, this VM's and the new release's. What was not changed here
// takes the new version; what was changed here stays, and is reported as a conflict when the release changed it
// too. Account files merge by entry, and no entry of this VM is ever lost. Below /var, paths that are new are
// made, and existing ones are never touched.
//
// The root overlay shows the old release below what this VM wrote until the next boot, so a new version is written
// like any other file. All that is needed to undo it is on the private disk before the first write.
package etcmerge

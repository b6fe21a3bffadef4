// Package etcmerge carries the configuration of a running VM from one release to the next, and back.
//
// Each file is merged three-way, from the old release's version, this VM's and the new release's. A file that was not
// changed in this VM takes the new version. A file that was changed here stays, and is reported as a conflict if the
// release changed it, too. Account files are merged by entry, and no entry of this VM is ever lost. Below /var, new
// paths are created, and existing ones are never touched.
//
// Until the next boot the lower layers of the root overlay are those of the old release, so a new version is written
// like any other file. Everything that is needed to undo the carry is on the private disk before the first write.
package etcmerge

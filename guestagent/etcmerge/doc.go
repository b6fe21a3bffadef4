// Package etcmerge carries what a release has outside of /usr from one release to the next in a VM, and back.
//
// Each file of /etc is merged three-way, from the old release's version, this VM's and the new release's. A file that
// was not changed in this VM takes the new version. A file that was changed here stays, and is reported as a conflict
// if the release changed it, too. Account files are merged by entry, and no entry of this VM is ever lost. What a
// release has below /opt and /usr/local (tree.CarriedByOS) follows it, and a local version is kept aside. In the VM's
// own trees (tree.OwnedByVM) new paths are created where the VM uses nothing, and existing ones are never touched.
//
// The old release's side is the Baseline on the private disk, of the stack at which /etc stands. So
// a carry needs no layer of that stack, and a boot ends with what a live refresh ends with.
//
// Until the next boot the lower layers of the root overlay are those of the old release, so a new version is written
// like any other file. Everything that is needed to undo the carry is on the private disk before the first write.
package etcmerge

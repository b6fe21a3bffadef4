// Package disks gives a guest the file systems of its further disks.
//
// Each is a systemd mount unit in /run, which the agent writes at every boot ([Install]) and while
// the system runs ([Set]). A disk is formatted only if it is blank. The boot configuration says
// which disks there are, or a record on the private disk of what the system was given since: the
// firmware keeps the boot configuration with which the VM was powered on.
package disks

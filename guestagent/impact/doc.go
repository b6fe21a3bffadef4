// Package impact assesses what moving a running VM from one stack to another interrupts, and finds what still runs old
// code afterwards. The plan and the refresh call the same function.
//
// The assessment is exact rather than heuristic. A unit is affected when a process of its control group maps, runs or
// has open a file whose content differs between the two contents lists; when its unit file, a drop-in or an environment
// file differs; when it runs an interpreter and code of that language differs; or when the user declared extra paths
// for it. The sign that other tools look for, "(deleted)" behind a mapped file, does not appear when /usr is swapped as
// a mount.
//
// Assess is a function of values. Reader reads them from /proc, package units from systemd.
package impact

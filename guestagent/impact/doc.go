// Package impact tells what moving a running VM from one stack to another interrupts, before it happens, and what
// still runs old code after it did. The plan and the refresh ask the same function.
//
// It is exact rather than heuristic: a unit is affected when a process of its control group maps, runs or holds
// open a file whose content differs between the two contents lists, when its unit file, a drop-in or an environment
// file differs, when it runs an interpreter and code of that language differs, or when the user declared extra
// paths for it. What the classic tools go by, a "(deleted)" behind a mapped file, does not appear when /usr is
// swapped as a mount.
//
// Assess is a function of values. Reading them from /proc is Processes; reading units is package units'.
package impact

// Package proc reads processes from a proc file system: the unit, the mapped and open files, the root and the mounts
// of each.
//
// It is the agent's only walk over processes. A caller gets one process after another and asks each for what it needs,
// so that it pays for nothing else: an assessment looks at every process of a VM while a plan waits for it. Under
// emulation most of that time goes into system calls. The package therefore opens the directory of a process once,
// and does not read past an end that it can recognise (design/0023).
//
// What is read of one process is bounded, far above what a service needs, so that a hostile process cannot cost much.
package proc

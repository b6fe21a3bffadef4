// Package boot is the first process of a VM: it assembles the root from verity-checked layers and the private
// disk, installs the agent as a service, and hands over to the system's own init.
//
// It promises that an uncommitted stack is never booted, that a private disk that was once complete is never
// formatted again, and that a boot that cannot go on says why on the console and powers the VM off instead of
// panicking. What changes a running VM is package refresh's.
package boot

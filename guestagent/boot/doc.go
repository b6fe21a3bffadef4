// Package boot is the first process of a VM: it assembles the root from layers, which dm-verity checks, and the private
// disk, installs the agent as a service, and executes the system's own init.
//
// It never boots an uncommitted stack, unless the host passes it or a refresh has started it. It never formats a
// private disk that was complete once. If a boot cannot go on, it prints why on the console and powers the VM off
// instead of panicking. Package refresh changes a running VM.
package boot

// Package bootimage makes what a VM boots from beside its layers: the modules archive of a kernel and the
// initramfs, which is the agent and those modules.
//
// Both are deterministic: equal input gives equal bytes. What runs in the initramfs is package guestagent/boot.
package bootimage

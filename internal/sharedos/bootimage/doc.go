// Package bootimage makes the files that a VM boots from in addition to its layers: the modules archive of a kernel,
// and the initramfs, which consists of the agent and those modules.
//
// Both are deterministic: equal input yields equal bytes. Package guestagent/boot runs in the initramfs.
package bootimage

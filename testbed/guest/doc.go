// Package guest gives tests and benchmarks real guests without Terraform: a World is a libvirt of their own with a
// store; in it releases of Debian are published, each with Edits of its tree, and VMs run them.
package guest

// Package guest provides real guests for tests and benchmarks, without Terraform. A World has a libvirt of its own
// with a store. Releases of Debian are published in it, each with Edits of its tree, and VMs run them.
package guest

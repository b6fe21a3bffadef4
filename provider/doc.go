// Package provider is the Terraform provider sharedos/sharedos: schema, plan and state, and nothing else.
//
// A Backend does the work: publish.Interface turns sources into releases, and vm.Interface creates, refreshes and
// deletes VMs. This package decides which values of a plan are known and what state contains. It writes the errors for
// the user: "Unable to <do> <what>", then why, then what to do next.
//
// The attributes of a resource are divided into blocks (vmBlock, sourceAttribute). A block is a struct that has
// everything about its attributes in one file: schema, values, defaults, comparison, and the conversion to a
// specification and back.
//
// Three rules hold everywhere. Nothing is replaced because an operating system changed. An object is removed from state
// only if libvirt itself says that it does not exist, never because something did not answer. A second plan is empty.
package provider

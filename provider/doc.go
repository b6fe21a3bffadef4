// Package provider is the Terraform provider sharedos/sharedos: schema, plan and state, and nothing else.
//
// What it declares is carried out by a Backend: publish.Interface turns sources into releases, vm.Interface
// carries VMs through their lives. This package decides what a plan may promise, what state may claim, and how
// an error is told to the user: "Unable to <do> <what>", then why, then what to do next.
//
// Three promises shape it. Nothing is replaced because an operating system changed. No answer is never taken for
// absence: only a not-found that libvirt itself gave removes an object from state. And a second plan is empty.
package provider

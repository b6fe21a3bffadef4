output "release" {
  description = "Id of the base release that the fleet is to run."
  value       = sharedos_base.this.release
}

output "complete" {
  description = "Whether each VM runs it."
  value       = sharedos_rollout.this.complete
}

output "results" {
  description = "What became of each VM in the last rollout."
  value       = sharedos_rollout.this.results
}

output "vms" {
  description = "The VMs: the names, and the addresses that their agents tell."
  value       = { for key, vm in sharedos_vm.this : key => { name = vm.name, addresses = vm.addresses } }
}

# VMs for which something waits: another stack, or a new kernel.
data "sharedos_vms" "pending" {
  pending = true
}

output "reboot_these" {
  description = "What waits for the next power-off and start, by VM."
  value       = { for vm in data.sharedos_vms.pending.vms : vm.name => vm.pending }
}

# VMs that still run an earlier release of a base.
data "sharedos_base" "debian" {
  name = "debian-13"
}

data "sharedos_vms" "debian" {
  base = "debian-13"
}

output "behind" {
  description = "VMs that run an earlier release, or are to."
  value       = [for vm in data.sharedos_vms.debian.vms : vm.name if vm.stack.base != data.sharedos_base.debian.release]
}

# VMs whose agents do not answer.
data "sharedos_vms" "silent" {
  silent = true
}

output "silent" {
  value = data.sharedos_vms.silent.names
}

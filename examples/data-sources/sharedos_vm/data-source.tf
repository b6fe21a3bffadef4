# What a VM runs, and the details of its last refresh.
data "sharedos_vm" "web" {
  name = "web-a"
}

output "left_alone" {
  description = "Units that the last refresh left alone."
  value       = try(data.sharedos_vm.web.last_refresh.unaffected, [])
}

output "timings" {
  description = "Milliseconds of each step of the last refresh."
  value       = try(data.sharedos_vm.web.last_refresh.timings_ms, {})
}

data "sharedos_pool_usage" "all" {}

output "saved_gibibytes" {
  description = "What the host does not have to hold because VMs and releases share what is equal."
  value       = data.sharedos_pool_usage.all.saved_bytes / pow(1024, 3)
}

output "release_bytes" {
  description = "What goes with each release when it is deleted."
  value       = { for r in data.sharedos_pool_usage.all.releases : "${r.base} ${r.sequence}" => r.own_bytes }
}

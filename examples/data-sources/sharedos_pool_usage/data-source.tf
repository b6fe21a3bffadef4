data "sharedos_pool_usage" "all" {}

output "saved_gibibytes" {
  description = "Space that is saved because VMs and releases share equal data."
  value       = data.sharedos_pool_usage.all.saved_bytes / pow(1024, 3)
}

output "release_bytes" {
  description = "Bytes that are freed when a release is deleted, by release."
  value       = { for r in data.sharedos_pool_usage.all.releases : "${r.base} ${r.sequence}" => r.own_bytes }
}

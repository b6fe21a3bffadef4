data "sharedos_host" "this" {}

output "missing" {
  description = "What the host lacks, and how to get it."
  value       = { for one in data.sharedos_host.this.missing : one.name => one.install }
}

# Warn before the pool is full.
check "room" {
  assert {
    condition     = coalesce(data.sharedos_host.this.pool.available_bytes, provider::sharedos::parse_size("1TiB")) > provider::sharedos::parse_size("20GiB")
    error_message = "The storage pool has less than 20 GiB left."
  }
}

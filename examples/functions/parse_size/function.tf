output "bytes" {
  value = provider::sharedos::parse_size("512MiB") # 536870912
}

# A disk that is twice the size of the memory.
output "disk" {
  value = provider::sharedos::format_size(2 * provider::sharedos::parse_size("512MiB")) # 1GiB
}

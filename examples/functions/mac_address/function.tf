# The address of the interface lan of any VM that is named web.
output "mac" {
  value = provider::sharedos::mac_address("web", "lan") # 52:54:00:b1:43:fd
}

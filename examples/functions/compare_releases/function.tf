data "sharedos_base" "debian" {
  name = "debian-13"
}

data "sharedos_vm" "web" {
  name = "web"
}

# "older" if the VM runs an earlier release than the newest one.
output "web_is" {
  value = provider::sharedos::compare_releases(
    data.sharedos_base.debian.history[*].release,
    data.sharedos_vm.web.stack.base,
    data.sharedos_base.debian.release,
  )
}

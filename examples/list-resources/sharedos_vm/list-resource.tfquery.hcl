# VMs that run a release of a base: terraform query -generate-config-out=vms.tf
list "sharedos_vm" "debian" {
  provider         = sharedos
  include_resource = true

  config {
    base = "debian-13"
  }
}

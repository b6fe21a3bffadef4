terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

# Uses the local libvirt, the storage pool "sharedos", and an operator key that is created on first use.
provider "sharedos" {}

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

# The local libvirt, the pool "sharedos" and an operator key that is made on first use.
provider "sharedos" {}

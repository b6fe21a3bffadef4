terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

variable "archive" {
  type = string
}

variable "vms" {
  type = set(string)
}

resource "sharedos_base" "os" {
  name    = "os"
  archive = { path = var.archive }
}

# VMs that are off need no guest.
resource "sharedos_vm" "web" {
  for_each = var.vms

  name    = each.key
  base    = sharedos_base.os.release
  memory  = "512MiB"
  disk    = { size = "1GiB" }
  running = false
}

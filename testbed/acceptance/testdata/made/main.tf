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

variable "parts" {
  type = string
}

variable "vm" {
  type = string
}

resource "sharedos_base" "os" {
  name    = "os"
  archive = { path = var.archive }
}

resource "sharedos_component" "tool" {
  name    = "tool"
  base    = sharedos_base.os.release
  archive = { path = var.parts }
}

# A VM that is off needs no guest.
resource "sharedos_vm" "web" {
  name       = var.vm
  base       = sharedos_base.os.release
  components = [sharedos_component.tool.release]
  vcpus      = 2
  memory     = "512MiB"
  disk       = { size = "1GiB" }
  title      = "Web"
  interfaces = { lan = { user = { forwards = { "18080" = 80 } } } }
  running    = false
}

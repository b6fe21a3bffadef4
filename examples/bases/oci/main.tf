# A VM on a base that is read from an image in a registry.

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

resource "sharedos_base" "os" {
  name = "from-oci"
  oci = {
    reference = var.reference
    # A tag is resolved again when this changes.
    triggers = { version = var.image_version }
  }
}

resource "sharedos_vm" "vm" {
  name   = "from-oci"
  base   = sharedos_base.os.release
  memory = "512MiB"
  disk   = { size = "4GiB" }

  ssh_authorized_keys = var.ssh_authorized_keys
  interfaces          = { lan = { user = { forwards = { (var.ssh_port) = 22 } } } }
}

variable "ssh_authorized_keys" {
  description = "Public keys of those who may log in as root."
  type        = list(string)
  default     = []
}

variable "ssh_port" {
  description = "Port of this machine's loopback that leads to the VM's sshd."
  type        = number
  default     = 2222
}

variable "reference" {
  description = "Image with its registry, such as registry.example.com/os/debian:13."
  type        = string
}

variable "image_version" {
  description = "Any text: another one makes the next plan ask the registry what the tag stands for today."
  type        = string
  default     = "1"
}

# A VM whose base is read from an OCI image in a registry.

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
    # The tag is resolved again if this value changes.
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
  description = "OpenSSH public keys that may log in as root."
  type        = list(string)
  default     = []
}

variable "ssh_port" {
  description = "Port on this machine's 127.0.0.1 that is forwarded to the VM's sshd."
  type        = number
  default     = 2222
}

variable "reference" {
  description = "Image reference with its registry, such as registry.example.com/os/debian:13."
  type        = string
}

variable "image_version" {
  description = "Any text. If it changes, the next plan resolves the tag in the registry again."
  type        = string
  default     = "1"
}

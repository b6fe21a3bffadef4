# A VM whose base is read from a disk image.

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

resource "sharedos_base" "os" {
  name = "from-disk-image"
  disk_image = {
    path = var.image
  }
}

resource "sharedos_vm" "vm" {
  name   = "from-disk-image"
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

variable "image" {
  description = "Path of a raw or qcow2 image, such as a cloud image."
  type        = string
}

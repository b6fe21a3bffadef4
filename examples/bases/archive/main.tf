# A VM whose base is read from an archive of a root file system.

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

resource "sharedos_base" "os" {
  name = "from-archive"
  archive = {
    path = var.archive
  }
}

resource "sharedos_vm" "vm" {
  name   = "from-archive"
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

variable "archive" {
  description = "Path of a tar archive, uncompressed or compressed with gzip, zstd, xz or bzip2."
  type        = string
}

# A VM whose base is made from Debian packages.

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

resource "sharedos_base" "os" {
  name = "from-debian"
  debian = {
    suite = "trixie"
    packages = [
      "linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs",
      "iproute2", "openssh-server", "nginx-light",
    ]
    # These files are added to the packages' files, or replace them. Install your own packages with package_files or repositories.
    files = {
      "/etc/motd" = { content = "A VM on a shared OS.\n" }
    }
  }
}

resource "sharedos_vm" "vm" {
  name   = "from-debian"
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

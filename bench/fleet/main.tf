# The VMs that the benchmark measures: two that run, and spares that are made and not started.

terraform {
  required_providers {
    sharedos = { source = "registry.terraform.io/sharedos/sharedos" }
  }
}

variable "additional_suites" {
  type        = list(string)
  description = "Suites with updates; empty for the main archive alone."
}

variable "vms" {
  type        = map(object({ ssh = number, greeter = number }))
  description = "VMs that run: where on 127.0.0.1 their sshd, and the benchmark's own service in them, are reached."
}

variable "spares" {
  type        = set(string)
  default     = []
  description = "VMs that are defined and not started."
}

variable "authorized_key" {
  type = string
}

resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite             = "trixie"
    additional_suites = var.additional_suites
    packages          = ["linux-image-cloud-amd64", "systemd-sysv", "openssh-server", "nginx-light", "dbus", "iproute2", "e2fsprogs", "kmod"]
  }
}

resource "sharedos_vm" "running" {
  for_each            = var.vms
  name                = each.key
  base                = sharedos_base.debian.release
  vcpus               = 1
  memory              = "512MiB"
  disk                = { size = "4GiB" }
  ssh_authorized_keys = [var.authorized_key]
  interfaces = {
    net = { user = { forwards = { (tostring(each.value.ssh)) = 22, (tostring(each.value.greeter)) = 8007 } } }
  }
  refresh = {
    max_impact    = "restart"
    health_checks = { ssh = { unit = "ssh.service" }, web = { unit = "nginx.service" } }
  }
}

resource "sharedos_vm" "spare" {
  for_each = var.spares
  name     = each.key
  base     = sharedos_base.debian.release
  vcpus    = 1
  memory   = "512MiB"
  disk     = { size = "4GiB" }
  running  = false
}

# Two VMs with nginx and sshd. Both run the same Debian 13, which the host stores once.

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite             = "trixie"
    additional_suites = var.additional_suites
    packages = [
      "linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs",
      "iproute2", "openssh-server", "nginx-light",
    ]
  }
}

resource "sharedos_vm" "web" {
  for_each = var.ports

  name   = "web-${each.key}"
  base   = sharedos_base.debian.release
  vcpus  = 1
  memory = "512MiB"
  disk   = { size = "4GiB" }

  ssh_authorized_keys = var.ssh_authorized_keys

  interfaces = {
    lan = {
      user = {
        forwards = {
          (each.value.http) = 80
          (each.value.ssh)  = 22
        }
      }
    }
  }

  refresh = {
    max_impact = "restart"
    health_checks = {
      web  = { unit = "nginx.service" }
      page = { http = "http://127.0.0.1/" }
    }
  }
}

output "base" {
  description = "The release that the VMs run, its size on the host, and what it changed."
  value = {
    release  = sharedos_base.debian.release
    sequence = sharedos_base.debian.sequence
    os       = sharedos_base.debian.os
    kernel   = sharedos_base.debian.kernel
    bytes    = sharedos_base.debian.bytes
    change   = sharedos_base.debian.change
  }
}

output "vms" {
  description = "How to reach each VM, its state, and the result of its last refresh."
  value = {
    for key, vm in sharedos_vm.web : vm.name => {
      url           = "http://127.0.0.1:${var.ports[key].http}/"
      ssh           = "ssh -p ${var.ports[key].ssh} root@127.0.0.1"
      ready_seconds = try(vm.agent.ready_seconds, null)
      kernel        = try(vm.agent.kernel, null)
      stack         = vm.stack
      last_refresh  = vm.last_refresh
      pending       = vm.pending
    }
  }
}

# Three roles on one Debian: they differ in their components alone. The host stores the base and each component once.
#
# The component "debug" is on demand in all of them: it takes no memory until somebody calls one of its commands, such as
# strace. Then the VM attaches it by itself, and attached_on_demand names it.

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

variable "additional_suites" {
  description = "Suites besides trixie. With [\"trixie-updates\", \"trixie-security\"], the base and all components are patched."
  type        = list(string)
  default     = []
}

variable "roles" {
  description = "The components of each VM, by its name."
  type        = map(list(string))
  default = {
    web   = ["nginx"]
    cache = ["redis"]
    db    = ["postgres"]
  }
}

variable "on_demand" {
  description = "The components that each VM attaches by itself when they are used."
  type        = list(string)
  default     = ["debug"]
}

locals {
  packages = {
    debug    = ["strace", "tcpdump"]
    nginx    = ["nginx-light"]
    redis    = ["redis-server"]
    postgres = ["postgresql"]
  }
  units = {
    nginx    = "nginx.service"
    redis    = "redis-server.service"
    postgres = "postgresql.service"
  }
}

resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite             = "trixie"
    additional_suites = var.additional_suites
    packages = [
      "linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs", "iproute2", "openssh-server",
    ]
  }
}

resource "sharedos_component" "part" {
  for_each = local.packages

  name   = each.key
  base   = sharedos_base.debian.release
  debian = { packages = each.value }

  # A component that is removed here leaves its VMs first, in the same apply.
  lifecycle {
    create_before_destroy = true
  }
}

resource "sharedos_vm" "role" {
  for_each = var.roles

  name       = each.key
  base       = sharedos_base.debian.release
  components = [for part in each.value : sharedos_component.part[part].release]
  on_demand  = [for part in var.on_demand : sharedos_component.part[part].release]
  vcpus      = 1
  memory     = "512MiB"
  disk       = { size = "4GiB" }

  refresh = {
    max_impact    = "restart"
    health_checks = { for part in each.value : part => { unit = local.units[part] } }
  }
}

output "attached_on_demand" {
  description = "The components that each VM has attached by itself."
  value       = { for name, vm in sharedos_vm.role : name => vm.attached_on_demand }
}

output "components" {
  description = "What each component adds to the base."
  value = {
    for name, part in sharedos_component.part : name => { release = part.release, packages = part.packages, adds = part.adds }
  }
}

# A fleet of VMs that share one Debian and get its patches in waves.

terraform {
  required_version = ">= 1.7"
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

resource "sharedos_base" "this" {
  name = var.name
  debian = {
    suite             = var.suite
    additional_suites = var.additional_suites
    packages          = var.packages
  }
}

resource "sharedos_component" "this" {
  for_each = var.components

  name   = each.key
  base   = sharedos_base.this.release
  debian = { packages = each.value }
}

locals {
  # The order of the components is the same in the VMs and in the rollout.
  components = [for name in sort(keys(var.components)) : sharedos_component.this[name].release]
}

resource "sharedos_vm" "this" {
  for_each = var.vms

  name       = "${var.name}-${each.key}"
  base       = sharedos_base.this.release
  components = local.components
  vcpus      = each.value.vcpus
  memory     = each.value.memory
  disk       = { size = each.value.disk }

  ssh_authorized_keys = var.ssh_authorized_keys
  interfaces          = each.value.interfaces

  refresh = {
    by            = "rollout"
    strategy      = var.strategy
    max_impact    = var.max_impact
    health_checks = var.health_checks
  }
}

resource "sharedos_rollout" "this" {
  base       = sharedos_base.this.release
  components = local.components

  # The canaries come first, and then the others by their names.
  vms = [for key in concat(var.canaries, sort(setsubtract(keys(var.vms), var.canaries))) : sharedos_vm.this[key].name]

  waves           = var.rollout.waves
  max_unavailable = var.rollout.max_unavailable
  max_failures    = var.rollout.max_failures
  soak            = var.rollout.soak
  on_failure      = var.rollout.on_failure
}

terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

variable "base" {
  type = string
}

variable "archive" {
  type    = string
  default = null
}

variable "debian" {
  type    = object({ packages = list(string), triggers = map(string) })
  default = null
}

variable "vms" {
  type    = map(object({ http = number }))
  default = {}
}

variable "health" {
  type    = map(object({ unit = optional(string), http = optional(string), command = optional(list(string)), timeout = optional(string) }))
  default = { web = { unit = "nginx.service" } }
}

resource "sharedos_base" "os" {
  name    = var.base
  archive = var.archive == null ? null : { path = var.archive }
  debian = var.debian == null ? null : {
    suite             = "trixie"
    additional_suites = []
    packages          = var.debian.packages
    triggers          = var.debian.triggers
  }
}

resource "sharedos_vm" "web" {
  for_each = var.vms

  name   = each.key
  base   = sharedos_base.os.release
  memory = "512MiB"
  disk   = { size = "4GiB" }

  interfaces = {
    lan = { user = { forwards = { (each.value.http) = 80 } } }
  }

  refresh = {
    settle        = "2s"
    health_checks = var.health
  }
}

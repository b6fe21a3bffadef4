terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

variable "name" {
  type = string
}

variable "release" {
  type = string
}

variable "key" {
  type = string
}

variable "ssh" {
  type = number
}

variable "refresh" {
  type = object({ strategy = string, max_impact = string })
}

import {
  to = sharedos_vm.guest
  id = var.name
}

resource "sharedos_vm" "guest" {
  name                = var.name
  base                = var.release
  memory              = "512MiB"
  disk                = { size = "4GiB" }
  ssh_authorized_keys = [var.key]
  interfaces          = { lan = { user = { forwards = { (var.ssh) = 22 } } } }
  refresh             = var.refresh
}

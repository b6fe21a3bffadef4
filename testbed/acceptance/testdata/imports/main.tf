terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

variable "vm" {
  type = string
}

import {
  to = sharedos_base.os
  id = "os"
}

import {
  to = sharedos_component.tool
  id = "tool"
}

import {
  to = sharedos_vm.web
  id = var.vm
}

data "sharedos_host" "this" {}

data "sharedos_vms" "with_tool" {
  component = "tool"
}

output "host" {
  value = data.sharedos_host.this
}

output "with_tool" {
  value = data.sharedos_vms.with_tool.names
}

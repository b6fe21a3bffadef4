terraform {
  required_providers {
    sharedos = {
      source = "sharedos/sharedos"
    }
  }
}

provider "sharedos" {}

variable "archive" {
  type = string
}

variable "vms" {
  type = list(string)
}

variable "soak" {
  type    = string
  default = "0s"
}

variable "public_key" {
  type = string
}

# If it is set, each VM runs a command over SSH, and its answer is written into this directory.
variable "ssh" {
  type    = object({ private_key = string, answers = string })
  default = null
}

resource "sharedos_base" "os" {
  name    = "debian-13"
  archive = { path = var.archive }
}

# Without an interface: SSH comes by vsock.
resource "sharedos_vm" "web" {
  for_each = toset(var.vms)

  name                = each.key
  base                = sharedos_base.os.release
  memory              = "512MiB"
  disk                = { size = "1GiB" }
  ssh_authorized_keys = [var.public_key]

  refresh = {
    by            = "rollout"
    settle        = "1s"
    health_checks = { web = { unit = "web.service" } }
  }
}

resource "sharedos_rollout" "web" {
  base  = sharedos_base.os.release
  vms   = [for name in var.vms : sharedos_vm.web[name].name]
  waves = ["1"]
  soak  = var.soak
}

ephemeral "sharedos_ssh" "web" {
  for_each = var.ssh == null ? toset([]) : toset(var.vms)

  vm = sharedos_vm.web[each.key].uuid
}

resource "terraform_data" "setup" {
  for_each = var.ssh == null ? toset([]) : toset(var.vms)

  connection {
    host        = ephemeral.sharedos_ssh.web[each.key].host
    port        = ephemeral.sharedos_ssh.web[each.key].port
    host_key    = ephemeral.sharedos_ssh.web[each.key].host_key
    user        = "root"
    private_key = file(var.ssh.private_key)
  }

  provisioner "remote-exec" {
    inline = ["cat /sys/class/dmi/id/product_uuid >/root/provisioned"]
  }

  provisioner "local-exec" {
    command = join(" ", [
      "echo \"[$HOST]:$PORT $HOST_KEY\" >$ANSWER.hosts &&",
      "ssh -i $KEY -p $PORT -o UserKnownHostsFile=$ANSWER.hosts -o StrictHostKeyChecking=yes -o BatchMode=yes root@$HOST",
      "cat /root/provisioned >$ANSWER",
    ])
    environment = {
      HOST     = ephemeral.sharedos_ssh.web[each.key].host
      PORT     = ephemeral.sharedos_ssh.web[each.key].port
      HOST_KEY = ephemeral.sharedos_ssh.web[each.key].host_key
      KEY      = var.ssh.private_key
      ANSWER   = "${var.ssh.answers}/${each.key}"
    }
  }
}

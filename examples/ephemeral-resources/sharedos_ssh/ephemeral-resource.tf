variable "public_key" {
  description = "Public key that may log in, as in ~/.ssh/id_ed25519.pub."
  type        = string
}

resource "sharedos_base" "debian" {
  name   = "debian-13"
  debian = { suite = "trixie", packages = ["linux-image-cloud-amd64", "systemd-sysv", "openssh-server"] }
}

# It has no network interface.
resource "sharedos_vm" "web" {
  name                = "web"
  base                = sharedos_base.debian.release
  memory              = "512MiB"
  disk                = { size = "4GiB" }
  ssh_authorized_keys = [var.public_key]
}

ephemeral "sharedos_ssh" "web" {
  vm = sharedos_vm.web.uuid
}

resource "terraform_data" "setup" {
  triggers_replace = [sharedos_vm.web.uuid]

  connection {
    host     = ephemeral.sharedos_ssh.web.host
    port     = ephemeral.sharedos_ssh.web.port
    host_key = ephemeral.sharedos_ssh.web.host_key
    user     = "root"
    agent    = true # the private key is in the SSH agent
  }

  provisioner "remote-exec" {
    inline = ["echo provisioned > /root/state"]
  }
}

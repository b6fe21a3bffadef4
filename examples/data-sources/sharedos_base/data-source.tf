# The newest release of a base that another configuration manages.
data "sharedos_base" "debian" {
  name = "debian-13"
}

# The release before it, for example to return to it.
data "sharedos_base" "before" {
  name     = "debian-13"
  sequence = data.sharedos_base.debian.sequence - 1
}

resource "sharedos_vm" "web" {
  name   = "web"
  base   = data.sharedos_base.debian.release
  memory = "512MiB"
  disk   = { size = "4GiB" }
}

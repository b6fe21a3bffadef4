resource "sharedos_vm" "web" {
  for_each = toset(["a", "b", "c", "d"])

  name       = "web-${each.key}"
  base       = sharedos_base.debian.release
  components = [sharedos_component.nginx.release]
  memory     = "512MiB"
  disk       = { size = "4GiB" }

  refresh = {
    by            = "rollout" # this resource leaves base and components to the rollout
    health_checks = { web = { unit = "nginx.service" } }
  }
}

resource "sharedos_rollout" "web" {
  base       = sharedos_base.debian.release
  components = [sharedos_component.nginx.release]
  vms        = [for vm in sharedos_vm.web : vm.name]

  waves           = ["1", "50%", "100%"]
  max_unavailable = 2
  soak            = "5m"
  on_failure      = "take_back"
}

resource "sharedos_base" "debian" {
  name   = "debian-13"
  debian = { suite = "trixie", packages = ["linux-image-cloud-amd64", "systemd-sysv", "openssh-server"] }
}

resource "sharedos_component" "nginx" {
  name   = "nginx"
  base   = sharedos_base.debian.release
  debian = { packages = ["nginx-light"] }
}

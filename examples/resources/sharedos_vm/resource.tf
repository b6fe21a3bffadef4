resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite    = "trixie"
    packages = ["linux-image-cloud-amd64", "systemd-sysv", "openssh-server", "nginx-light"]
  }
}

resource "sharedos_vm" "web" {
  name   = "web"
  base   = sharedos_base.debian.release
  vcpus  = 2
  memory = "1GiB"
  disk   = { size = "8GiB" }
  disks = {
    data = { size = "20GiB", file_system = "ext4", mount_point = "/srv/data" }
  }

  autostart = true # it comes back with the host

  ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2ZyEzG0o2Q6S0yX0bRrZ7m0o3m2Yx0cXQ8v1rWqk3u operator"]

  interfaces = {
    lan  = { bridge = "br0" }
    test = { user = { forwards = { "8080" = 80 } } }
  }

  # The guest takes all of this on while it runs.
  files = {
    "/etc/motd"                   = { content = "Welcome.\n" }
    "/etc/nginx/conf.d/gzip.conf" = { content = "gzip on;\n", reload = ["nginx.service"] }
  }
  units = {
    "nginx.service" = { enabled = true, drop_ins = { "limits.conf" = "[Service]\nLimitNOFILE=65536\n" } }
    "acme.service"  = { content = "[Service]\nExecStart=/usr/bin/sleep infinity\n", started = true }
  }
  users = {
    alice = { groups = ["adm"], ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2ZyEzG0o2Q6S0yX0bRrZ7m0o3m2Yx0cXQ8v1rWqk3u alice"] }
  }
  networks = {
    lan  = { addresses = ["192.0.2.10/24", "2001:db8::10/64"], gateways = ["192.0.2.1"], dns = ["192.0.2.53"], search = ["example.org"] }
    test = { dhcp4 = true }
  }
  sysctl    = { "net.ipv4.ip_forward" = "1" }
  time_zone = "Europe/Berlin"

  refresh = {
    strategy   = "live"
    max_impact = "restart"
    settle     = "10s"
    policy     = "restart"
    units = {
      "nginx.service"    = { paths = ["/etc/nginx/"] } # reloaded when its configuration changes
      "database.service" = { policy = "report" }       # left alone until a maintenance window
    }
    health_checks = {
      web  = { unit = "nginx.service" }
      page = { http = "http://127.0.0.1/", timeout = "10s" }
      ssh  = { tcp = "127.0.0.1:22" }
      own  = { command = ["/usr/bin/test", "-d", "/srv"] }
    }
  }

  timeouts = {
    create = "15m"
  }
}

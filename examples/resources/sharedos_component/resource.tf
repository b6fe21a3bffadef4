resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite    = "trixie"
    packages = ["linux-image-cloud-amd64", "systemd-sysv", "dbus", "openssh-server"]
  }
}

# Debian packages. They come from the same archives as those of the base, and the base's packages keep their versions.
resource "sharedos_component" "postgres" {
  name   = "postgres"
  base   = sharedos_base.debian.release
  debian = { packages = ["postgresql", "postgresql-contrib"] }
}

# Files of your own, laid over the base. Changed content at the same path yields the next release.
resource "sharedos_component" "app" {
  name    = "app"
  base    = sharedos_base.debian.release
  archive = { path = "app.tar.zst" }
}

# The VM has the component as long as it lists it.
resource "sharedos_vm" "db" {
  name       = "db"
  base       = sharedos_base.debian.release
  components = [sharedos_component.postgres.release]
  memory     = "1GiB"
  disk       = { size = "8GiB" }
}

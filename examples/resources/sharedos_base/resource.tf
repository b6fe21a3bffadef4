# Made from Debian's packages. Another list of packages is the next release of the same base.
resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite    = "trixie"
    packages = ["linux-image-cloud-amd64", "systemd-sysv", "openssh-server"]

    # Debian's archive is asked again whenever this changes.
    triggers = { month = "2026-01" }
  }
}

# Made from an archive. Other bytes under the same path are the next release.
resource "sharedos_base" "own" {
  name    = "own-os"
  archive = { path = "rootfs.tar.zst" }
}

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

# Made from a directory that an ordinary user laid out: all of it belongs to root in the base.
resource "sharedos_base" "tree" {
  name      = "own-tree"
  directory = { path = "rootfs", owner = "root" }
}

# Made from an image. The tag is pinned until a trigger changes.
resource "sharedos_base" "image" {
  name = "own-image"
  oci = {
    reference = "registry.example.com/os/debian:13"
    triggers  = { month = "2026-01" }
  }
}

# Made from a cloud image that is fetched once; its root file system is found by the type of its partition.
resource "sharedos_base" "cloud" {
  name = "cloud"
  disk_image = {
    url    = "https://example.com/debian-13-generic-amd64.qcow2"
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  }
}

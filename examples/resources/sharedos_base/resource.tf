# From Debian packages. A changed list of packages yields the next release of the same base.
resource "sharedos_base" "debian" {
  name = "debian-13"
  debian = {
    suite    = "trixie"
    packages = ["linux-image-cloud-amd64", "systemd-sysv", "openssh-server"]

    # Debian's archive is read again if this value changes.
    triggers = { month = "2026-01" }
  }
}

# From an archive. Changed content at the same path yields the next release.
resource "sharedos_base" "own" {
  name    = "own-os"
  archive = { path = "rootfs.tar.zst" }
}

# From a directory that an ordinary user made. In the base, all files belong to root.
resource "sharedos_base" "tree" {
  name      = "own-tree"
  directory = { path = "rootfs", owner = "root" }
}

# From an OCI image. The tag is resolved once and pinned until a trigger changes.
resource "sharedos_base" "image" {
  name = "own-image"
  oci = {
    reference = "registry.example.com/os/debian:13"
    triggers  = { month = "2026-01" }
  }
}

# From a cloud image that is downloaded once. The type of the partition identifies the root file system.
resource "sharedos_base" "cloud" {
  name = "cloud"
  disk_image = {
    url    = "https://example.com/debian-13-generic-amd64.qcow2"
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  }
}

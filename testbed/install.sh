#!/bin/sh
# Installs what the demo, the tests and the benchmarks need on Debian 12 or 13.
#
# It asks the machine's own apt configuration for the mirror and names none itself, does nothing when
# everything is present, and never upgrades what is already good enough. On Debian 12, QEMU and libvirt come
# from backports: QEMU 7.2 miscompiles cmpxchg16b under emulation and a 6.12 guest panics in kmalloc.
# vhost-device-vsock is packaged in sid only; sid is pinned so low that nothing else can come from it.
set -eu

say() { printf 'install: %s\n' "$*"; }
fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

[ -r /etc/os-release ] || fail "there is no /etc/os-release; Debian 12 or 13 is needed"
. /etc/os-release
case "${ID:-}:${VERSION_ID:-}" in
debian:12 | debian:13) ;;
*) fail "this is ${PRETTY_NAME:-unknown}; the demo and the tests set up Debian 12 or 13 only" ;;
esac
[ "$(id -u)" = 0 ] || fail "must run as root, to install packages and to start libvirtd"

packages="qemu-system-x86 qemu-utils ovmf seabios libvirt-daemon-system libvirt-clients libvirt-daemon-driver-storage-logical
	libvirt-daemon-driver-storage-zfs mmdebstrap
	erofs-utils cryptsetup-bin e2fsprogs xfsprogs btrfs-progs fdisk openssh-client ca-certificates zstd xz-utils bzip2 iproute2 systemd uidmap make git rpm apparmor
	gpg gpg-agent chromium-headless-shell fonts-dejavu-core"
# libvirt-daemon-system is split on Debian 13.
[ "$VERSION_ID" = 12 ] || packages="$packages libvirt-daemon libvirt-daemon-driver-qemu"

missing=
for package in $packages; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
if [ "$VERSION_ID" = 12 ]; then
	for package in qemu-system-x86 libvirt-daemon; do
		have=$(dpkg-query -W -f '${Version}' "$package" 2>/dev/null || true)
		case "$package" in qemu-system-x86) need=1:10.0 ;; *) need=11.3 ;; esac
		if [ -z "$have" ] || dpkg --compare-versions "$have" lt "$need~"; then
			case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
		fi
	done
fi
vsock_missing=
[ -e /dev/vhost-vsock ] || command -v vhost-device-vsock >/dev/null || vsock_missing=yes
if [ -z "$missing$vsock_missing" ]; then
	say "everything is installed"
	exit 0
fi

export DEBIAN_FRONTEND=noninteractive
say "reading the package lists"
apt-get update -qq || fail "apt-get update failed; look at /etc/apt/sources.list and /etc/apt/sources.list.d"

# The mirror and key ring that this machine's own sources name for its own release.
mirror=$(apt-get indextargets --format '$(SITE)|$(CODENAME)|$(LABEL)|$(COMPONENT)' 'Created-By: Packages' |
	awk -F'|' -v c="$VERSION_CODENAME" '$2 == c && $3 == "Debian" && $4 == "main" { print $1; exit }')
[ -n "$mirror" ] || fail "apt's configuration names no mirror of Debian $VERSION_CODENAME main"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

add_suite() { # name suite priority package...
	list=/etc/apt/sources.list.d/sharedos-$1.sources
	printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$2" "$keyring" >"$list"
	say "added the suite $2 of this machine's own mirror in $list"
}

target=
if [ "$VERSION_ID" = 12 ]; then
	add_suite backports "$VERSION_CODENAME-backports"
	target="-t $VERSION_CODENAME-backports"
fi
if [ -n "$vsock_missing" ]; then
	add_suite sid sid
	cat >/etc/apt/preferences.d/sharedos-sid <<-'PIN'
		Package: *
		Pin: release n=sid
		Pin-Priority: -1

		Package: vhost-device-vsock
		Pin: release n=sid
		Pin-Priority: 100
	PIN
fi
apt-get update -qq || fail "apt-get update failed with the added suites"

if [ -n "$missing" ]; then
	say "installing$(printf ' %s' $missing)"
	# No service is to start: the testbed runs libvirtd itself, on sockets of its own.
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $target $missing >/tmp/sharedos-install.log 2>&1 || {
		tail -30 /tmp/sharedos-install.log >&2
		fail "apt-get install failed; the whole log is /tmp/sharedos-install.log"
	}
fi
if [ -n "$vsock_missing" ]; then
	say "installing vhost-device-vsock (this host has no /dev/vhost-vsock)"
	apt-get install -y -qq --no-install-recommends vhost-device-vsock >>/tmp/sharedos-install.log 2>&1 || {
		tail -30 /tmp/sharedos-install.log >&2
		fail "vhost-device-vsock could not be installed; the whole log is /tmp/sharedos-install.log"
	}
fi
say "done"

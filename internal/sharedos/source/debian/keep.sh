# A setup hook of mmdebstrap: gives apt the packages that earlier builds downloaded, so that it does not fetch them again.
# apt checks only the size of what is in its cache. So a package is used only if its digest is in the indexes, which apt
# has verified, and only under a name that no other package of the indexes has.
#
#   keep.sh ROOT PACKAGES    PACKAGES holds files <sha256>_<name in apt's cache>
#
# Whatever fails here, apt fetches the packages itself.
root=$1
packages=$2
archives=$root/var/cache/apt/archives
[ -n "$(ls "$packages")" ] || exit 0
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
# mmdebstrap does not repeat a complete update. Without this file it repeats one that failed, and tells why.
apt-get update --error-on=any -qq >&2 || {
	rm -f "$root/var/cache/apt/pkgcache.bin"
	exit 0
}
mkdir -p "$archives" && cd "$archives" || exit 0
{
	ls "$packages" | sed 's/^/Kept: /'
	apt-get indextargets --no-release-info --format '$(FILENAME)' 'Created-By: Packages' |
		while read -r list; do
			/usr/lib/apt/apt-helper cat-file "$list"
			echo
		done
} |
	awk '
		$1 == "Kept:" { kept[$2] }
		$1 == "Package:" { package = $2 }
		$1 == "Version:" { version = $2 }
		$1 == "Architecture:" { architecture = $2 }
		$1 == "SHA256:" { digest = $2 }
		NF == 0 && package != "" {
			name = package "_" version "_" architecture ".deb"
			gsub(/:/, "%3a", name)
			if (!(name in found)) found[name] = digest
			else if (found[name] != digest) found[name] = ""
			package = version = architecture = digest = ""
		}
		END { for (name in found) if ((found[name] "_" name) in kept) print found[name] "_" name }
	' |
	while read -r file; do
		name=${file#*_}
		cp "$packages/$file" "$name" || continue
		if [ "$(sha256sum <"$name")" = "${file%%_*}  -" ]; then
			echo "$name" >>"$root/var/cache/apt/kept"
			touch -a "$packages/$file" 2>/dev/null # the packages that are used are kept for longest
		else
			rm -f "$name"
		fi
	done
[ ! -e "$root/var/cache/apt/kept" ] || echo "I: $(wc -l <"$root/var/cache/apt/kept") packages are kept from earlier builds" >&2
exit 0

package impact

import (
	"path"
	"strings"
)

// deletedSuffix is what the kernel appends to the path of an unlinked file.
const deletedSuffix = " (deleted)"

// Resolve turns a path as /proc shows it into the form of contents lists, relative to the root, and reports whether the
// kernel shows the file as unlinked. It returns "" for memory, sockets and devices.
//
// The kernel shows a file that is mapped from a swapped-out /usr without the mount point: /usr/lib/x as /lib/x.
// Programs use the same spelling through the symbolic links of a merged /usr, and it means the same file. Contents
// lists have what a release brings below /opt and /usr/local at /var/opt and /var/usrlocal (tree.CarriedByOS).
func Resolve(shown string) (name string, deleted bool) {
	if !strings.HasPrefix(shown, "/") {
		return "", false
	}
	shown, deleted = strings.CutSuffix(shown, deletedSuffix)
	name = strings.TrimPrefix(path.Clean(shown), "/")
	first, _, below := strings.Cut(name, "/")
	switch {
	case first == "opt":
		return "var/" + name, deleted
	case name == "usr/local", strings.HasPrefix(name, "usr/local/"):
		return "var/usrlocal" + strings.TrimPrefix(name, "usr/local"), deleted
	case !below:
		return name, deleted
	case first == "usr":
		return name, deleted
	case belowUsr(first):
		return "usr/" + name, deleted
	case first == "proc", first == "sys", first == "dev", strings.HasPrefix(first, "memfd:"):
		return "", false
	default:
		return name, deleted
	}
}

// belowUsr reports whether a directory with this name is found below /usr, and not in the root.
func belowUsr(directory string) bool {
	switch directory {
	case "bin", "sbin", "games", "include", "libexec", "share", "src":
		return true
	}
	return strings.HasPrefix(directory, "lib")
}

package impact

import (
	"path"
	"strings"
)

// deletedSuffix is what the kernel appends to the path of an unlinked file.
const deletedSuffix = " (deleted)"

// Resolve gives the path, relative to the root as contents lists have it, of a file as /proc shows it, and whether
// the kernel shows it as unlinked. It returns "" for what is no file of the root: memory, sockets, devices.
//
// A file that is mapped from a /usr that was swapped out has lost the mount's place: /usr/lib/x is shown as
// /lib/x. That is the same spelling that programs use through the links of a merged /usr, and means the same file.
func Resolve(shown string) (name string, deleted bool) {
	if !strings.HasPrefix(shown, "/") {
		return "", false
	}
	shown, deleted = strings.CutSuffix(shown, deletedSuffix)
	name = strings.TrimPrefix(path.Clean(shown), "/")
	first, _, below := strings.Cut(name, "/")
	switch {
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

// belowUsr reports whether a directory of this name is found below /usr and never beside it.
func belowUsr(directory string) bool {
	switch directory {
	case "bin", "sbin", "games", "include", "libexec", "share", "src":
		return true
	}
	return strings.HasPrefix(directory, "lib")
}

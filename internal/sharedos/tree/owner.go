package tree

// Owner says whose the paths of a release are once a VM runs it, and so what a refresh does with them.
type Owner int

// The owners.
const (
	// OwnedByOS is a path of which every VM has exactly the release's version: all of /usr, and
	// what no other owner has.
	OwnedByOS Owner = iota
	// CarriedByOS is a path of the OS on the VM's private disk, where the VM can have files of its
	// own, too: what a release brings below /opt and /usr/local, which Normalise moves below /var.
	// A refresh and a boot bring the release's version there. Files that only the VM has stay.
	CarriedByOS
	// Merged is a path below /etc: what the release changed and what the VM changed are merged.
	Merged
	// OwnedByVM is a path below /var, /home, /root or /srv. The VM gets the release's version when it has none, once,
	// and no release replaces it later.
	OwnedByVM
)

// CarriedTrees are the directories of CarriedByOS. A directory itself is the VM's.
var CarriedTrees = []string{"var/opt", "var/usrlocal"}

// vmTrees are the directories of OwnedByVM.
var vmTrees = []string{"var", "home", "root", "srv"}

// OwnerOf returns the owner of a path, which is relative to the root, as in Entry.Path.
func OwnerOf(path string) Owner {
	for _, top := range CarriedTrees {
		if below(path, top) {
			return CarriedByOS
		}
	}
	for _, top := range vmTrees {
		if path == top || below(path, top) {
			return OwnedByVM
		}
	}
	if below(path, "etc") {
		return Merged
	}
	return OwnedByOS
}

// below reports whether a path is inside a directory.
func below(path, directory string) bool {
	return len(path) > len(directory) && path[len(directory)] == '/' && path[:len(directory)] == directory
}

package etcmerge

import (
	"cmp"
	"slices"
)

// Kind says why a carry left something as this VM has it, or not as the release has it. Programs decide by it; the
// text of a Conflict is for people.
type Kind string

// The kinds.
const (
	// Changed means that the VM and the release changed the same attribute of a path.
	Changed Kind = "changed"
	// Restricted means that both changed permissions or a password, and that the result is what both allow.
	Restricted Kind = "restricted"
	// OtherType means that the path is of another type here, for example a directory.
	OtherType Kind = "type"
	// Mounted means that something is mounted on the path, or that it lies on a mount of its own.
	Mounted Kind = "mount"
	// Protected means that the path cannot be written: an immutable or append-only file (chattr(1)), a read-only mount,
	// or a file system that refuses it.
	Protected Kind = "protected"
	// Unreadable means that the path cannot be read or represented.
	Unreadable Kind = "unreadable"
	// Unsupported means that the release has a device or a named pipe there, which no refresh creates.
	Unsupported Kind = "unsupported"
	// AccountLeft means that an entry of the release was left out, since an account would get what another one has
	// here.
	AccountLeft Kind = "account_left"
	// AccountNumber means that an account of the release has another number here.
	AccountNumber Kind = "account_number"
	// ForeignOwner means that a file of the release in /usr belongs to an account of this VM, because the number of its
	// own account is taken here.
	ForeignOwner Kind = "foreign_owner"
	// AccountName means that the release adds an account of a name that this VM has already.
	AccountName Kind = "account_name"
	// AccountsLocked means that another program held the lock of the account files for too long.
	AccountsLocked Kind = "accounts_locked"
	// Generated means that a generated file could not be generated again.
	Generated Kind = "generated"
	// InUse means that the release adds files to a directory that this VM uses, and that they were not added.
	InUse Kind = "in_use"
	// Kept means that the path is the VM's own, and that the release has another version of it now.
	Kept Kind = "kept"
	// Replaced means that the path is the OS's, and that the release's version replaced what this VM had there.
	Replaced Kind = "replaced"
	// Unpurged means that a component that is gone has brought the path, and that it was changed here.
	Unpurged Kind = "not_purged"
	// LeftInPlace means that an undo could not restore the path.
	LeftInPlace Kind = "not_restored"
)

// advice is what an administrator can do about a conflict.
var advice = map[Kind]string{
	Changed:       "merge the release's change by hand, or list the path in refresh.keep_files if the VM's version is to stay",
	Restricted:    "set the value that you want by hand",
	OtherType:     "move the VM's version away to get the release's with the next refresh, or list the path in refresh.keep_files",
	Mounted:       "unmount it; the next refresh then brings the release's version",
	Protected:     "make it writable (chattr -i, or remount its file system); the next refresh then brings the release's version",
	Unsupported:   "create it by hand, or with systemd-tmpfiles",
	Unreadable:    "rename it, or make it readable",
	AccountLeft:   "give the account here another number or range, or remove it; the next refresh then brings the release's entry",
	AccountNumber: "files of the account that you copy between VMs need the number that it has in this VM",
	ForeignOwner: "give the account of this VM another number with usermod -u or groupmod -g, and then the release's " +
		"account the number that the release has",
	AccountName:    "rename the account here or remove it; the next refresh then brings the release's",
	AccountsLocked: "end the program that holds /etc/.pwd.lock, for example vipw; the next refresh then merges the account files",
	Generated:      "run the tool in the VM",
	InUse:          "copy the files by hand if the program needs them",
	Kept:           "nothing, or take over what the release changed by hand",
	Replaced:       "put what is this VM's own at a path that no release has",
	Unpurged:       "remove it by hand if it is not needed any more",
	LeftInPlace:    "restore it by hand",
}

// Conflict is something that a carry did not bring to the release's version.
type Conflict struct {
	// Path is relative to the root, as in tree.Entry.
	Path string
	Kind Kind
	// Reason is for people.
	Reason string
}

// String returns the path and the reason: "/etc/motd: changed here and by the release".
func (c Conflict) String() string { return c.File() + ": " + c.Reason }

// File returns the absolute path by which an administrator knows the file: "/opt/acme/acmed".
func (c Conflict) File() string { return shown(c.Path) }

// Advice returns what an administrator can do about the conflict.
func (c Conflict) Advice() string { return advice[c.Kind] }

// Texts returns the texts of conflicts.
func Texts(conflicts []Conflict) []string {
	var texts []string
	for _, c := range conflicts {
		texts = append(texts, c.String())
	}
	return texts
}

func sortConflicts(conflicts []Conflict) []Conflict {
	slices.SortFunc(conflicts, func(a, b Conflict) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(conflicts)
}

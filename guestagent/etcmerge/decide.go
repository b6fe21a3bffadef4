package etcmerge

import (
	"maps"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Difference is a path at which two releases differ. Old is nil for an added path, New for a removed one.
type Difference struct {
	Path     string
	Old, New *tree.Entry
}

// NewDifference copies the entries, which a reader of contents lists reuses.
func NewDifference(path string, old, new *tree.Entry) Difference {
	return Difference{Path: path, Old: clone(old), New: clone(new)}
}

func clone(e *tree.Entry) *tree.Entry {
	if e == nil {
		return nil
	}
	c := *e
	c.Xattrs = maps.Clone(e.Xattrs)
	return &c
}

// Action is what a carry does with a path.
type Action int

// The actions.
const (
	// Keep leaves the path as it is.
	Keep Action = iota
	// Write replaces the path by the new release's version.
	Write
	// Remove removes the path.
	Remove
	// Merge merges an account file by entry.
	Merge
	// Conflict leaves the path as it is and reports it: both this VM and the release changed it.
	Conflict
)

// Decide returns what a carry does with a path. ours is this VM's version, nil if the path does not exist here. The
// reason is that of a conflict.
func Decide(d Difference, ours *tree.Entry) (action Action, reason string) {
	switch {
	case owned(d.Path):
		return Keep, ""
	case tree.OwnerOf(d.Path) == tree.OwnedByVM:
		return Keep, "" // Seeding decides about new paths
	case same(ours, d.New):
		return Keep, ""
	case accountFiles[d.Path] != nil && isRegular(d.Old) && isRegular(ours) && isRegular(d.New):
		return Merge, ""
	case same(ours, d.Old):
		if d.New == nil {
			return Remove, ""
		}
		return Write, ""
	case d.New == nil && ours == nil:
		return Keep, ""
	case ours == nil:
		return Conflict, "removed here, changed by the release"
	case d.Old == nil:
		return Conflict, "created here, added by the release as another " + d.New.Type.String()
	case d.New == nil:
		return Conflict, "changed here, removed by the release"
	case ours.Type != d.New.Type:
		return Conflict, "a " + ours.Type.String() + " here, a " + d.New.Type.String() + " in the release"
	default:
		return Conflict, "changed here and by the release"
	}
}

// owned reports whether a file belongs to this VM, whatever a release has: init or the system's tools write it, or it
// is a backup of an account file.
func owned(path string) bool {
	switch path {
	case "etc/machine-id", "etc/hostname", "etc/resolv.conf", "etc/mtab", "etc/.pwd.lock", "etc/adjtime", "etc/.updated", "var/.updated":
		return true
	}
	original, backup := strings.CutSuffix(path, "-")
	return backup && accountFiles[original] != nil
}

func isRegular(e *tree.Entry) bool { return e != nil && e.Type == tree.Regular }

// same compares what this package restores: everything except times and extended attributes.
func same(a, b *tree.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Path, x.Xattrs, y.Path, y.Xattrs = "", nil, "", nil
	if x.Type == tree.Symlink { // the mode of a symbolic link has no meaning
		x.Mode, y.Mode = 0, 0
	}
	if x.Type == tree.Directory {
		x.Size, y.Size = 0, 0
	}
	return tree.Equal(x, y)
}

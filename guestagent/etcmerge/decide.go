package etcmerge

import (
	"maps"
	"path"
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
	// Blend merges a path by attribute: content, mode, owner, extended attributes.
	Blend
	// Replace does what the release does, and keeps this VM's version aside: both changed a path that is the OS's.
	Replace
	// Conflicting leaves the path as it is and reports it: both this VM and the release changed it.
	Conflicting
)

// Decision is what a carry does with a path. Kind and Reason are those of a conflict.
type Decision struct {
	Action Action
	Kind   Kind
	Reason string
}

// Decide returns what a carry does with a path. ours is this VM's version, nil if the path does not exist here.
func Decide(d Difference, ours *tree.Entry) Decision {
	unchanged := same(ours, d.Old) || d.Path == resolverPath && ours != nil && resolverOfAgent(ours.Link)
	conflict := func(kind Kind, reason string) Decision { return Decision{Conflicting, kind, reason} }
	switch {
	case owned(d.Path):
		return Decision{Action: Keep}
	case tree.OwnerOf(d.Path) == tree.OwnedByVM:
		return Decision{Action: Keep} // Seeding decides about new paths
	case tree.OwnerOf(d.Path) == tree.CarriedByOS:
		return decideCarried(d, ours)
	case alike(withoutLabels(ours, d), d.New):
		return Decision{Action: Keep}
	case accountFiles[d.Path] != nil && (d.Old == nil || isRegular(d.Old)) && isRegular(ours) && isRegular(d.New):
		return Decision{Action: Merge}
	case unchanged && d.New == nil && d.Path == resolverPath:
		return conflict(Kept,
			"the release no longer has it; it stays until you remove it and start the VM again, because nothing else knows the name servers before")
	case unchanged && d.New == nil:
		return Decision{Action: Remove}
	case unchanged && (d.Old == nil || d.Old.Type != d.New.Type):
		return Decision{Action: Write}
	case d.Old != nil && d.New != nil && ours != nil && d.Old.Type == d.New.Type && ours.Type == d.New.Type:
		return Decision{Action: Blend}
	case d.New == nil && ours == nil:
		return Decision{Action: Keep}
	case ours == nil:
		return conflict(Changed, "removed here, changed by the release")
	case d.New != nil && ours.Type != d.New.Type:
		return conflict(OtherType, "a "+ours.Type.String()+" here, a "+d.New.Type.String()+" in the release")
	case d.Old == nil:
		return conflict(Changed, "created here, added by the release as another "+d.New.Type.String())
	case d.New == nil:
		return conflict(Changed, "changed here, removed by the release")
	default:
		return conflict(Changed, "changed here and by the release")
	}
}

// owned reports whether a file belongs to this VM, whatever a release has: init or the system's tools write it, or it
// is a backup of an account file.
func owned(path string) bool {
	switch path {
	case "etc/machine-id", "etc/hostname", "etc/mtab", "etc/.pwd.lock", "etc/adjtime", "etc/.updated",
		"var/.updated", formerPath:
		return true
	}
	original, backup := strings.CutSuffix(path, "-")
	return backup && accountFiles[original] != nil
}

// resolverPath is the file with the name servers, relative to the root. A release has it only if its source gives it,
// or as a link to the file of a resolver; else a boot makes it a link to a file that the agent writes (ResolverFile).
const (
	resolverPath = "etc/resolv.conf"
	// ResolverFile lasts until the next boot.
	ResolverFile = "/run/sharedos/resolv.conf"
)

// resolverOfAgent reports whether a link at resolverPath leads to the agent's file, as a release without one has it.
func resolverOfAgent(link string) bool {
	return link != "" && path.Join("/etc", link) == ResolverFile || link == ResolverFile
}

func isRegular(e *tree.Entry) bool { return e != nil && e.Type == tree.Regular }

// same compares everything except times and extended attributes.
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

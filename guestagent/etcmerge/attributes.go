package etcmerge

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The extended attributes with a meaning of their own; see acl(5), capabilities(7).
const (
	accessList  = "system.posix_acl_access"
	capability  = "security.capability"
	systemLists = "system.posix_acl_"
)

// kernelLabels are extended attributes that the kernel or a security module sets by itself. They count as changed only
// if a release has them.
var kernelLabels = []string{"security.selinux", "security.ima", "security.evm", "security.SMACK64"}

// carriedAttribute reports whether a carry keeps an extended attribute. The others belong to the file system.
func carriedAttribute(name string) bool {
	return strings.HasPrefix(name, systemLists) || strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "user.")
}

// blend merges the attributes of a path that is of the same type in the old release, here, and in the new release:
// content, mode, owner, group and each extended attribute. What only one side changed is taken. fromHere is true if the
// content is that of this VM.
//
// Where both changed the mode, the result has the permissions that both allow. A permission of the owner, or of the group
// and the access control list, is one of a side with that owner, or group and list, or of both sides. A setuid or setgid bit or a capability
// stays only if one of the sides has it with the same content and owner: nothing gets a privilege that neither gave.
func blend(old, ours, next *tree.Entry) (after *tree.Entry, fromHere bool, conflicts []Conflict) {
	after = clone(ours)
	conflict := func(kind Kind, format string, arguments ...any) {
		conflicts = append(conflicts, Conflict{Path: next.Path, Kind: kind, Reason: fmt.Sprintf(format, arguments...)})
	}
	fromHere = true
	switch content := func(e *tree.Entry) string { return e.Digest.Hex() + e.Link }; {
	case content(ours) == content(next), content(ours) == content(old):
		after.Digest, after.Size, after.Link = next.Digest, next.Size, next.Link
		fromHere = false
	case content(next) != content(old):
		conflict(Changed, "changed here and by the release")
	}
	switch {
	case ours.Type == tree.Symlink: // the mode of a symbolic link has no meaning
	case ours.Mode == old.Mode:
		after.Mode = next.Mode
	case next.Mode != old.Mode && next.Mode != ours.Mode:
		after.Mode = ours.Mode&next.Mode&^unix.S_ISVTX | (ours.Mode|next.Mode)&unix.S_ISVTX
		conflict(Restricted, "mode %04o here and %04o in the release: it has %04o now", ours.Mode, next.Mode, after.Mode)
	}
	for _, owner := range []struct {
		what                    string
		after                   *uint32
		here, before, inRelease uint32
	}{{"owner", &after.UID, ours.UID, old.UID, next.UID}, {"group", &after.GID, ours.GID, old.GID, next.GID}} {
		switch {
		case owner.here == owner.before:
			*owner.after = owner.inRelease
		case owner.inRelease != owner.before && owner.inRelease != owner.here:
			conflict(Changed, "%s %d here, changed by the release to %d", owner.what, owner.here, owner.inRelease)
		}
	}
	after.Xattrs = maps.Clone(ours.Xattrs)
	if after.Xattrs == nil {
		after.Xattrs = map[string]string{}
	}
	names := slices.Collect(maps.Keys(ours.Xattrs))
	names = slices.AppendSeq(names, maps.Keys(old.Xattrs))
	names = slices.AppendSeq(names, maps.Keys(next.Xattrs))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		here, isHere := ours.Xattrs[name]
		was, wasThere := old.Xattrs[name]
		is, isThere := next.Xattrs[name]
		switch {
		case !carriedAttribute(name), wasThere == isThere && was == is, isHere == isThere && here == is:
		case isHere != wasThere || here != was:
			conflict(Changed, "attribute %s changed here and by the release", name)
		case isThere:
			after.Xattrs[name] = is
		default:
			delete(after.Xattrs, name)
		}
	}
	// What a mode gives to the owner, and to the group and access control list, it gives to those of its own side alone.
	for _, class := range []struct {
		bits   uint32
		holder func(*tree.Entry) string
	}{
		{0o700, func(e *tree.Entry) string { return fmt.Sprint(e.UID) }},
		{0o070, func(e *tree.Entry) string { return fmt.Sprint(e.GID, e.Xattrs[accessList]) }},
	} {
		given := ours.Mode & next.Mode
		for _, side := range []*tree.Entry{ours, next} {
			if class.holder(side) == class.holder(after) {
				given |= side.Mode
			}
		}
		if more := after.Mode & class.bits &^ given; more != 0 && after.Type != tree.Symlink {
			after.Mode &^= more
			conflict(Restricted, "mode %04o removed, since owner, group or access control list are not those that it was given to", more)
		}
	}
	gives := func(has func(*tree.Entry) bool) bool {
		return slices.ContainsFunc([]*tree.Entry{ours, next}, func(e *tree.Entry) bool {
			return has(e) && e.Digest == after.Digest && e.UID == after.UID && e.GID == after.GID
		})
	}
	if after.Type == tree.Regular {
		for _, bit := range []uint32{unix.S_ISUID, unix.S_ISGID} {
			if after.Mode&bit != 0 && !gives(func(e *tree.Entry) bool { return e.Mode&bit != 0 }) {
				after.Mode &^= bit
				conflict(Restricted, "mode %04o removed, since content or owner are not those that it was given to", bit)
			}
		}
		if now, has := after.Xattrs[capability]; has && !gives(func(e *tree.Entry) bool { return e.Xattrs[capability] == now }) {
			delete(after.Xattrs, capability)
			conflict(Restricted, "its capabilities removed, since content or owner are not those that they were given to")
		}
	}
	return after, fromHere, conflicts
}

// withoutLabels returns an entry of this VM without what the kernel set by itself.
func withoutLabels(ours *tree.Entry, d Difference) *tree.Entry {
	if ours == nil {
		return nil
	}
	ours = clone(ours)
	for _, e := range []*tree.Entry{d.Old, d.New} {
		if e == nil {
			continue
		}
		for name := range e.Xattrs {
			if slices.Contains(kernelLabels, name) {
				return ours
			}
		}
	}
	maps.DeleteFunc(ours.Xattrs, func(name, _ string) bool { return slices.Contains(kernelLabels, name) })
	return ours
}

// alike compares what this package restores: everything except times, and the attributes that are not carried.
func alike(a, b *tree.Entry) bool {
	return same(a, b) && (a == nil || maps.Equal(carriedOnly(a.Xattrs), carriedOnly(b.Xattrs)))
}

func carriedOnly(attributes map[string]string) map[string]string {
	kept := maps.Clone(attributes)
	maps.DeleteFunc(kept, func(name, _ string) bool { return !carriedAttribute(name) })
	return kept
}

// owners replaces the account numbers of a release by those of this VM, in the owner of an entry and in its access
// control lists. What becomes root's loses its setuid and setgid bits.
func (n ownerNumbers) apply(e *tree.Entry) *tree.Entry {
	if e == nil {
		return nil
	}
	e = clone(e)
	uid, gid := n.users.Of(e.UID), n.groups.Of(e.GID)
	if uid != e.UID && uid == nobodyHere {
		e.Mode &^= unix.S_ISUID
		delete(e.Xattrs, capability)
	}
	if gid != e.GID && gid == nobodyHere && e.Type != tree.Directory {
		e.Mode &^= unix.S_ISGID
	}
	e.UID, e.GID = uid, gid
	for name, list := range e.Xattrs {
		if strings.HasPrefix(name, systemLists) {
			e.Xattrs[name] = tree.RenumberACL(list, n.users.Of, n.groups.Of)
		}
	}
	return e
}

// ownerNumbers are the account numbers of a release in this VM.
type ownerNumbers struct{ users, groups Numbers }

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
	return strings.HasPrefix(name, systemLists) || strings.HasPrefix(name, "security.") ||
		strings.HasPrefix(name, "user.")
}

// blend merges the attributes of a path that is of the same type in the old release, here, and in the new release:
// content, mode, owner, group and each extended attribute. What only one side changed is taken. fromHere is true if the
// content is that of this VM, and not the release's.
//
// Content of this VM may be a secret. So it gets no permission, owner, group or access control list of the
// release: the release can only take permissions away. Of other content the result allows nobody anything
// that neither side allows: where both changed the mode, it has the permissions of both. A setuid or
// setgid bit or a capability stays only if one of the sides has it with the same content and owner.
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
	private := fromHere && ours.Type == tree.Regular
	switch {
	case ours.Type == tree.Symlink: // the mode of a symbolic link has no meaning
	case ours.Mode == old.Mode && private:
		after.Mode = ours.Mode & next.Mode
		if more := next.Mode &^ ours.Mode; more != 0 {
			conflict(Restricted,
				"mode %04o in the release: it has %04o, since its content is this VM's", next.Mode, after.Mode)
		}
	case ours.Mode == old.Mode:
		after.Mode = next.Mode
	case next.Mode != old.Mode && next.Mode != ours.Mode:
		after.Mode = ours.Mode&next.Mode&^unix.S_ISVTX | (ours.Mode|next.Mode)&unix.S_ISVTX
		conflict(Restricted, "mode %04o here and %04o in the release: it has %04o now",
			ours.Mode, next.Mode, after.Mode)
	}
	for _, owner := range []struct {
		what                    string
		after                   *uint32
		here, before, inRelease uint32
	}{{"owner", &after.UID, ours.UID, old.UID, next.UID}, {"group", &after.GID, ours.GID, old.GID, next.GID}} {
		switch {
		case owner.here == owner.inRelease:
		case owner.here == owner.before && private:
			conflict(Restricted, "%s %d in the release: it stays %d, since its content is this VM's", owner.what,
				owner.inRelease, owner.here)
		case owner.here == owner.before:
			*owner.after = owner.inRelease
		case owner.inRelease != owner.before:
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
		case private && name == accessList:
			conflict(Restricted, "the access control list stays as it is here, since the content is this VM's")
		case isThere:
			after.Xattrs[name] = is
		default:
			delete(after.Xattrs, name)
		}
	}
	if more := permitted(after) &^ permittedBy(after, ours, next); more != 0 && after.Type != tree.Symlink {
		after.Mode &^= more
		conflict(Restricted,
			"mode %04o removed, since owner, group or access control list are not those that it was given to", more)
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
				conflict(Restricted,
					"mode %04o removed, since content or owner are not those that it was given to", bit)
			}
		}
		if now, has := after.Xattrs[capability]; has &&
			!gives(func(e *tree.Entry) bool { return e.Xattrs[capability] == now }) {
			delete(after.Xattrs, capability)
			conflict(Restricted,
				"its capabilities removed, since content or owner are not those that they were given to")
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

// Who can use a file: its owner, its group and access control list, and others.
const (
	ownerShift  = 6
	groupShift  = 3
	othersShift = 0
)

// accessor is somebody who wants to use a file: a user with a group. listed is true for somebody
// whom the access control list of the merged file names.
type accessor struct {
	uid, gid uint32
	listed   bool
}

// class returns by which part of the mode of e somebody is judged. list is the access control list
// of the merged file. It returns false if that is unknown: e has another list.
func (a accessor) class(e *tree.Entry, list string) (shift uint, known bool) {
	has := e.Xattrs[accessList]
	switch {
	case a.uid == e.UID:
		return ownerShift, true
	case a.gid == e.GID, a.listed && has == list:
		return groupShift, has == "" || has == list
	default:
		return othersShift, has == "" || has == list
	}
}

// permitted are the permissions in a mode.
func permitted(e *tree.Entry) uint32 { return e.Mode & 0o777 }

// permittedBy returns the permissions of a merged file that give nobody more than one of the sides does.
func permittedBy(merged *tree.Entry, sides ...*tree.Entry) uint32 {
	const stranger = ^uint32(0)
	list := merged.Xattrs[accessList]
	users, groups := []uint32{stranger}, []uint32{stranger}
	for _, side := range sides {
		users, groups = append(users, side.UID), append(groups, side.GID)
	}
	permissions := permitted(merged)
	for _, uid := range users {
		for _, gid := range groups {
			for _, listed := range []bool{false, list != ""} {
				someone := accessor{uid, gid, listed}
				var given uint32
				for _, side := range sides {
					if shift, known := someone.class(side, list); known {
						given |= permitted(side) >> shift & 7
					}
				}
				shift, _ := someone.class(merged, list)
				permissions &^= (7 &^ given) << shift
			}
		}
	}
	return permissions
}

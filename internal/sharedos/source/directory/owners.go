package directory

import (
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// Owners maps the account numbers that files have on disk to those that they have in the tree. The zero value keeps
// them.
type Owners struct {
	// Root makes root:root the owner of every file.
	Root bool
	// UIDs and GIDs map ranges of numbers, as /proc/self/uid_map does (user_namespaces(7)). If there are any, a number
	// outside of them is refused.
	UIDs, GIDs []IDRange
}

// IDRange maps Count numbers: those from OnDisk on to those from InTree on.
type IDRange struct {
	OnDisk, InTree, Count uint32
}

// of maps the owner of a file. The error wraps source.ErrRefused.
func (o Owners) of(uid, gid uint32) (u, g uint32, err error) {
	if o.Root {
		return 0, 0, nil
	}
	if u, err = mapID("uid", uid, o.UIDs); err != nil {
		return 0, 0, err
	}
	g, err = mapID("gid", gid, o.GIDs)
	return u, g, err
}

func mapID(what string, id uint32, ranges []IDRange) (uint32, error) {
	if len(ranges) == 0 {
		return id, nil
	}
	for _, r := range ranges {
		if id >= r.OnDisk && id-r.OnDisk < r.Count {
			return r.InTree + (id - r.OnDisk), nil
		}
	}
	return 0, fmt.Errorf("its %s %d is in none of the mapped ranges: %w", what, id, source.ErrRefused)
}

// check returns an error for ranges that are impossible or overlap.
func (o Owners) check() error {
	for what, ranges := range map[string][]IDRange{"uid": o.UIDs, "gid": o.GIDs} {
		for i, r := range ranges {
			// The largest number means "none" to the kernel.
			if end := uint64(r.Count) + uint64(max(r.OnDisk, r.InTree)); r.Count == 0 || end > 1<<32-1 {
				return fmt.Errorf("%s range %d to %d of %d numbers is impossible: %w", what, r.OnDisk, r.InTree,
					r.Count, source.ErrRefused)
			}
			for _, other := range ranges[:i] {
				if overlap(r.OnDisk, other.OnDisk, r.Count, other.Count) ||
					overlap(r.InTree, other.InTree, r.Count, other.Count) {
					return fmt.Errorf("%s ranges from %d and from %d overlap: %w", what, other.OnDisk,
						r.OnDisk, source.ErrRefused)
				}
			}
		}
	}
	return nil
}

// overlap reports whether two ranges of numbers have a number in common.
func overlap(a, b, countA, countB uint32) bool {
	return uint64(a) < uint64(b)+uint64(countB) && uint64(b) < uint64(a)+uint64(countA)
}

package source

import "fmt"

// Owners tells which account numbers files get in a tree by those that they have where they are read. The zero
// value keeps them.
type Owners struct {
	// Root gives every file to root:root.
	Root bool
	// UIDs and GIDs map numbers by ranges, as /proc/self/uid_map does (user_namespaces(7)). If there are any, a
	// number in none of them is refused.
	UIDs, GIDs []IDRange
}

// IDRange maps the Count numbers from OnDisk on to those from InTree on.
type IDRange struct {
	OnDisk, InTree, Count uint32
}

// owner maps the numbers of a file. The error matches ErrRefused.
func (o Owners) owner(uid, gid uint32) (u, g uint32, err error) {
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
	return 0, fmt.Errorf("its %s %d is in no range that is mapped: %w", what, id, ErrRefused)
}

// check reports ranges that are impossible or meet.
func (o Owners) check() error {
	for what, ranges := range map[string][]IDRange{"uid": o.UIDs, "gid": o.GIDs} {
		for i, r := range ranges {
			// The largest number means "none" to the kernel.
			if end := uint64(r.Count) + uint64(max(r.OnDisk, r.InTree)); r.Count == 0 || end > 1<<32-1 {
				return fmt.Errorf("%s range %d to %d of %d numbers is impossible: %w", what, r.OnDisk, r.InTree, r.Count, ErrRefused)
			}
			for _, other := range ranges[:i] {
				if meet(r.OnDisk, other.OnDisk, r.Count, other.Count) || meet(r.InTree, other.InTree, r.Count, other.Count) {
					return fmt.Errorf("%s ranges from %d and from %d overlap: %w", what, other.OnDisk, r.OnDisk, ErrRefused)
				}
			}
		}
	}
	return nil
}

// meet reports whether two ranges of numbers have one in common.
func meet(a, b, countA, countB uint32) bool {
	return uint64(a) < uint64(b)+uint64(countB) && uint64(b) < uint64(a)+uint64(countA)
}

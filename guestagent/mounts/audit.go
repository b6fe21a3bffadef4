package mounts

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// Superblock names what a /usr is mounted from. It is the same in every mount namespace.
type Superblock struct {
	// Device is "major:minor" of the file system.
	Device string `json:"device"`
	// Root is the directory of the file system that is mounted: "/" for an overlay, "/usr" for a single layer.
	Root string `json:"root"`
}

// Superblock returns what is mounted at u.Path now.
func (u Usr) Superblock() (Superblock, error) {
	table, err := proc.OwnMountTable()
	if err != nil {
		return Superblock{}, err
	}
	top := table.At(u.Path)
	if top == nil {
		return Superblock{},
			fmt.Errorf("find the mount of %s: %w: it is not a mount point of its own", u.Path, ErrConstraint)
	}
	return Superblock{Device: top.Device().String(), Root: top.Root}, nil
}

// contains reports whether m shows s, or a part of it.
func (s Superblock) contains(m *proc.Mount) bool {
	if m.Device().String() != s.Device {
		return false
	}
	return s.Root == "/" || m.Root == s.Root || strings.HasPrefix(m.Root, s.Root+"/")
}

// Pinned is a mount namespace, or a root directory of its own in one, that shows another /usr than the current one.
type Pinned struct {
	// Namespace is the inode number of the mount namespace.
	Namespace uint64
	// PIDs of the processes in it, ascending.
	PIDs []int
	// Units of these processes, "" for a process that belongs to none, in the order of PIDs.
	Units []string
	// Places are the mount points at which an old /usr is seen.
	Places []string
}

// mountView is what the processes with the same mount namespace and the same root see.
type mountView struct {
	namespace uint64
	root      string
}

// Audit finds the mount namespaces that still show one of the old superblocks, by the proc file system at procRoot
// ("/proc"). A swap propagates to plain copies of the mount tree. It does not where /usr was bound onto itself, or
// where something was mounted below it.
//
// The modules of the running kernel are left out: a swap keeps them on purpose.
func (u Usr) Audit(ctx context.Context, procRoot string, old []Superblock) ([]Pinned, error) {
	if len(old) == 0 {
		return nil, nil // nothing was swapped out, so nothing can be pinned
	}
	modules := path.Join(u.Path, "lib/modules", u.Kernel)
	views := map[mountView]*Pinned{}
	var all []*Pinned
	err := proc.NewScanner(procRoot).Each(ctx, func(p *proc.Process) error {
		namespace, err := p.MountNamespace()
		if err != nil {
			return err
		}
		root, err := p.Link("root")
		if err != nil {
			return err
		}
		key := mountView{namespace: namespace, root: string(root)}
		view := views[key]
		if view == nil {
			table, err := p.Mounts()
			if err != nil {
				return err
			}
			view = &Pinned{Namespace: namespace}
			for i := range table {
				m := &table[i]
				if m.Mountpoint != modules &&
					slices.ContainsFunc(old, func(s Superblock) bool { return s.contains(m) }) {
					view.Places = append(view.Places, m.Mountpoint)
				}
			}
			views[key] = view
			all = append(all, view)
		}
		if len(view.Places) == 0 {
			return nil
		}
		unit, _, err := p.Unit()
		if err != nil {
			return err
		}
		view.PIDs, view.Units = append(view.PIDs, p.PID), append(view.Units, unit)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("audit the mount namespaces: %w", err)
	}
	var pinned []Pinned
	for _, view := range all {
		if len(view.PIDs) > 0 {
			pinned = append(pinned, *view)
		}
	}
	return pinned, nil
}

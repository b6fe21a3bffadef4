package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Superblock names what a /usr is mounted from, as every mount namespace shows it alike.
type Superblock struct {
	// Device is "major:minor" of the file system.
	Device string `json:"device"`
	// Root is the directory of the file system that is mounted: "/" for an overlay, "/usr" for a single layer.
	Root string `json:"root"`
}

// Superblock tells what is mounted at u.Path now.
func (u Usr) Superblock() (Superblock, error) {
	table, err := readMountTable("/proc/thread-self/mountinfo")
	if err != nil {
		return Superblock{}, err
	}
	top := table.at(u.Path)
	if top == nil {
		return Superblock{}, fmt.Errorf("find the mount of %s: %w: it is not a mount point of its own", u.Path, ErrConstraint)
	}
	return Superblock{Device: top.superblock(), Root: top.Root}, nil
}

// holds reports whether m shows s, or a part of it.
func (s Superblock) holds(m *mount) bool {
	if m.superblock() != s.Device {
		return false
	}
	return s.Root == "/" || m.Root == s.Root || strings.HasPrefix(m.Root, s.Root+"/")
}

// Pinned is a mount namespace, or a root of its own within one, that shows another /usr than the present one.
type Pinned struct {
	// Namespace is the inode number of the mount namespace.
	Namespace uint64
	// PIDs of the processes in it, ascending.
	PIDs []int
	// Places are the mount points at which an old /usr is seen.
	Places []string
}

// Audit finds the mount namespaces that still see one of the old superblocks, in the file system at proc
// ("/proc"). A swap follows into plain copies of the mount tree; it does not where /usr was bound onto itself or
// something was mounted below it.
//
// Modules of the running kernel that a swap kept in place are no sign of an old /usr.
func (u Usr) Audit(proc string, old []Superblock) ([]Pinned, error) {
	if len(old) == 0 {
		return nil, nil // of none that was swapped out there is a user
	}
	views, err := mountViews(proc)
	if err != nil {
		return nil, err
	}
	modules := path.Join(u.Path, "lib/modules", u.Kernel)
	var pinned []Pinned
	for _, view := range views {
		table, err := readMountTable(path.Join(proc, strconv.Itoa(view.pids[0]), "mountinfo"))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var places []string
		for i := range table {
			m := &table[i]
			if m.Mountpoint == modules || !slices.ContainsFunc(old, func(s Superblock) bool { return s.holds(m) }) {
				continue
			}
			places = append(places, m.Mountpoint)
		}
		if len(places) > 0 {
			pinned = append(pinned, Pinned{Namespace: view.namespace, PIDs: view.pids, Places: places})
		}
	}
	return pinned, nil
}

// mountView is what processes with the same mount namespace and the same root see.
type mountView struct {
	namespace uint64
	root      string
	pids      []int
}

// mountViews groups the processes that there are. One that ends meanwhile is left out.
func mountViews(proc string) ([]mountView, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	type key struct {
		namespace uint64
		root      string
	}
	index := map[key]int{}
	var views []mountView
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		directory := path.Join(proc, entry.Name())
		var namespace unix.Stat_t
		if err := unix.Stat(path.Join(directory, "ns/mnt"), &namespace); gone(err) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("mount namespace of process %d: %w", pid, err)
		}
		root, err := os.Readlink(path.Join(directory, "root"))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		k := key{namespace.Ino, root}
		at, known := index[k]
		if !known {
			at = len(views)
			index[k] = at
			views = append(views, mountView{namespace: k.namespace, root: root})
		}
		views[at].pids = append(views[at].pids, pid)
	}
	for i := range views {
		slices.Sort(views[i].pids)
	}
	return views, nil
}

// gone reports whether an error means that the process ended: its directory is away, or it is a zombie, which
// has no mount namespace any more.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}

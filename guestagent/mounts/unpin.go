package mounts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// Unpin has mount namespaces that still show an old superblock at u.Path show the current one there, as a plain copy of
// the mount tree does by itself. What was mounted below the old one, such as the cover over kernel modules of
// ProtectKernelModules=, is mounted below the current one. procRoot is the proc file system ("/proc").
//
// A namespace stays as it is where that would change more: if it does not follow the swaps of this one, if mounts
// go from it to this one, if it shows an old superblock elsewhere, too, or if the current /usr lacks a mount point.
func (u Usr) Unpin(ctx context.Context, procRoot string, old []Superblock) error {
	pinned, err := u.Audit(ctx, procRoot, old)
	if err != nil {
		return err
	}
	own, err := proc.OwnMountTable()
	if err != nil {
		return err
	}
	current := own.At(u.Path)
	if len(pinned) == 0 || current == nil {
		return nil
	}
	var failed error
	for _, view := range pinned {
		failed = errors.Join(failed, u.unpin(filepath.Join(procRoot, strconv.Itoa(view.PIDs[0])), current, old))
	}
	return failed
}

// unpin is Unpin for the namespace of a process, whose directory in the proc file system is process.
func (u Usr) unpin(process string, current *proc.Mount, old []Superblock) (err error) {
	fail := func(err error) error {
		return fmt.Errorf("show the current %s in the mount namespace of %s: %w", u.Path, process, err)
	}
	namespace, err := unix.Open(filepath.Join(process, "ns/mnt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if proc.Ended(err) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, unix.Close(namespace)) }()
	table, err := proc.ReadMountTable(filepath.Join(process, "mountinfo"))
	if proc.Ended(err) {
		return nil
	}
	if err != nil {
		return fail(err)
	}
	covers, possible := u.covers(table, current, old)
	if !possible {
		return nil
	}
	for _, place := range covers {
		if fits, err := u.hasPlace(filepath.Join(process, "root"), place); err != nil || !fits {
			return err
		}
	}
	above := len(table.Stacked(u.Path)) - 1
	onThrowawayThread(func() { err = u.uncover(namespace, above, covers) })
	if err != nil {
		return fail(err)
	}
	return nil
}

// covers returns the mount points below the old /usr of a namespace, relative to it, outer ones first, and whether the
// namespace can show the current /usr by detaching what is mounted over it.
func (u Usr) covers(table proc.MountTable, current *proc.Mount, old []Superblock) (places []string, possible bool) {
	isOld := func(m *proc.Mount) bool {
		return slices.ContainsFunc(old, func(s Superblock) bool { return s.contains(m) })
	}
	stacked := table.Stacked(u.Path)
	// Each swap has mounted its /usr beneath the others here.
	if len(stacked) < 2 || stacked[0].Device() != current.Device() || stacked[0].Root != current.Root {
		return nil, false
	}
	if group := stacked[0].PeerGroup(); group != "" && group == current.PeerGroup() {
		return nil, false // what is mounted below it there would be mounted here
	}
	detached := map[int]bool{}
	for _, m := range stacked[1:] {
		if !isOld(m) {
			return nil, false
		}
		detached[m.ID] = true
	}
	for i := range table {
		m := &table[i]
		if detached[m.ID] {
			continue
		}
		place, below := strings.CutPrefix(m.Mountpoint, u.Path+"/")
		goes := below && under(table, m, detached)
		switch {
		case isOld(m), goes && m.FSType == "autofs":
			return nil, false
		case goes && !slices.Contains(places, place):
			places = append(places, place)
		}
	}
	slices.Sort(places)
	return places, true
}

// under reports whether a mount is on one of the others, or on a mount that is.
func under(table proc.MountTable, m *proc.Mount, others map[int]bool) bool {
	for range table { // the kernel's table has no cycle, and a bounded loop need not trust that
		if others[m.Parent] {
			return true
		}
		if m = table.ByID(m.Parent); m == nil {
			return false
		}
	}
	return false
}

// hasPlace reports whether the current /usr has a mount point for what is mounted at a place below another root.
func (u Usr) hasPlace(root, place string) (bool, error) {
	var here, there unix.Stat_t
	for path, stat := range map[string]*unix.Stat_t{filepath.Join(u.Path, place): &here,
		filepath.Join(root, u.Path, place): &there} {
		err := unix.Lstat(path, stat)
		if proc.Ended(err) || errors.Is(err, unix.ENOTDIR) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("stat mount point %s: %w", path, err)
		}
	}
	directory := func(stat unix.Stat_t) bool { return stat.Mode&unix.S_IFMT == unix.S_IFDIR }
	return directory(here) == directory(there) && here.Mode&unix.S_IFMT != unix.S_IFLNK, nil
}

// uncover enters a mount namespace and detaches the mounts over the current /usr. It runs on a
// thread that ends with it.
func (u Usr) uncover(namespace, above int, covers []string) (err error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the working directory: %w", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter it: %w", err)
	}
	clones := map[string]*Detached{}
	defer func() {
		for _, clone := range clones {
			err = errors.Join(err, clone.Close())
		}
	}()
	for _, place := range covers {
		path := filepath.Join(u.Path, place)
		if seen, err := isMountPoint(path); err != nil {
			return err
		} else if !seen {
			continue // another mount hides it
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, path,
			unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
		if err != nil {
			return fmt.Errorf("clone mount %s: %w", path, err)
		}
		clones[place] = &Detached{fd: fd}
	}
	for range above {
		if err := unix.Unmount(u.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("detach the earlier %s: %w", u.Path, err)
		}
	}
	for _, place := range covers {
		if clone := clones[place]; clone != nil {
			if err := clone.Attach(filepath.Join(u.Path, place)); err != nil {
				return err
			}
		}
	}
	return nil
}

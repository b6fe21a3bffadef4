package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// nestedMount is a mount below /usr that the next /usr needs, too.
type nestedMount struct {
	// source is the absolute path of the mount, or of the directory, in the current system.
	source string
	// place is its mount point, relative to /usr.
	place string
	// directory is true for a mount point that is a directory, false for a file.
	directory bool
	// beneath is how many further mounts the one that is seen hides at its mount point.
	beneath int
}

// nested returns the mounts that the next /usr needs: all mounts below the current one, and the modules of the running
// kernel if the next one lacks them.
func (u Usr) nested(next *Detached) ([]nestedMount, error) {
	table, err := proc.OwnMountTable()
	if err != nil {
		return nil, err
	}
	modules := filepath.Join("lib/modules", u.Kernel)
	bringsModules, err := existsAt(next.FD(), filepath.Join(modules, "modules.dep"))
	if err != nil {
		return nil, err
	}
	var all []nestedMount
	seen := map[string]bool{}
	for i := range table {
		place, below := strings.CutPrefix(table[i].Mountpoint, u.Path+"/")
		if !below || seen[place] || place == modules && bringsModules {
			continue
		}
		seen[place] = true
		if err := u.cannotCarry(table, &table[i]); err != nil {
			return nil, err
		}
		n := nestedMount{source: table[i].Mountpoint, place: place,
			beneath: max(0, len(table.Stacked(table[i].Mountpoint))-1)}
		if n.directory, err = isDirectory(n.source); err != nil {
			return nil, err
		}
		if err := fits(next, n); err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	if !bringsModules && !seen[modules] {
		current := filepath.Join(u.Path, modules)
		has, err := existsAt(unix.AT_FDCWD, filepath.Join(current, "modules.dep"))
		if err != nil {
			return nil, err
		}
		if has {
			all = append(all, nestedMount{source: current, place: modules, directory: true})
		}
	}
	return all, nil
}

// cannotCarry returns an error if a mount below /usr cannot be carried over to any other /usr.
func (u Usr) cannotCarry(table proc.MountTable, mount *proc.Mount) error {
	if mount.FSType == "autofs" {
		return fmt.Errorf("%w: an automount point lies below %s, at %s, and cannot be carried over", ErrConstraint,
			u.Path, mount.Mountpoint)
	}
	if len(table.Stacked(mount.Mountpoint)) < 2 {
		return nil
	}
	inside := slices.IndexFunc(table,
		func(m proc.Mount) bool { return strings.HasPrefix(m.Mountpoint, mount.Mountpoint+"/") })
	if inside < 0 {
		return nil
	}
	return fmt.Errorf(
		"%w: several mounts lie over each other at %s, with another below them at %s, and cannot be carried over",
		ErrConstraint, mount.Mountpoint, table[inside].Mountpoint)
}

// fits returns an error if the mount point is a file of another type in the next /usr.
func fits(next *Detached, n nestedMount) error {
	var stat unix.Stat_t
	err := unix.Fstatat(next.FD(), n.place, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("carry mount %s over: %w", n.source, err)
	}
	if (stat.Mode&unix.S_IFMT == unix.S_IFDIR) != n.directory || stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return fmt.Errorf(
			"%w: the mount %s cannot be carried over, since the new stack has a file of another type there",
			ErrConstraint, n.source)
	}
	return nil
}

// buildNested builds the tree again, with mount points for the nested mounts, and mounts those there.
//
// Before Linux 6.15 nothing can be mounted on a detached mount. So the tree is assembled in a mount namespace that ends
// with its thread, and then cloned: no other process ever sees it incomplete.
func (u Usr) buildNested(layers []string, bare *Detached, nested []nestedMount) (*Detached, error) {
	var tree *Detached
	var err error
	onThrowawayThread(func() { tree, err = u.assemble(layers, bare, nested) })
	return tree, err
}

// assemble does the work of buildNested. It runs on a thread that ends with it.
func (u Usr) assemble(layers []string, bare *Detached, nested []nestedMount) (tree *Detached, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("make a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the mount namespace private: %w", err)
	}
	// The layers and the sources are opened first: the mount on the scratch directory hides what is below it.
	lowers := make([]string, 0, len(layers)+1)
	for _, layer := range layers {
		fd, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open layer %s: %w", layer, err)
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		lowers = append(lowers, fmt.Sprintf("/proc/thread-self/fd/%d", fd))
	}
	sources := make([][]int, len(nested)) // of each place, the mounts from the lowest to the one that is seen
	for i, n := range nested {
		for above := n.beneath; above >= 0; above-- {
			fd, err := unix.OpenTree(unix.AT_FDCWD, n.source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
			if err != nil {
				return nil, fmt.Errorf("clone mount %s: %w", n.source, err)
			}
			defer func() { err = errors.Join(err, unix.Close(fd)) }()
			sources[i] = append([]int{fd}, sources[i]...)
			if above == 0 {
				break
			}
			// The one beneath has no path until this one is gone, in this namespace only.
			if err := unix.Unmount(n.source, unix.MNT_DETACH); err != nil {
				return nil, fmt.Errorf("reach the mount beneath %s: %w", n.source, err)
			}
		}
	}
	if err := unix.Mount("sharedos", u.Scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV,
		"size=1m,mode=0755"); err != nil {
		return nil, fmt.Errorf("mount tmpfs on %s: %w", u.Scratch, err)
	}
	scaffold := filepath.Join(u.Scratch, "scaffold")
	if err := scaffoldFor(filepath.Join(scaffold, "usr"), bare, nested); err != nil {
		return nil, err
	}
	whole, err := buildTree(append(lowers, scaffold), "usr", onThisThread)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, whole.Close()) }()
	place := filepath.Join(u.Scratch, "usr")
	if err := os.Mkdir(place, 0o755); err != nil {
		return nil, err
	}
	if err := unix.MoveMount(whole.FD(), "", unix.AT_FDCWD, place, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("mount the next %s on %s: %w", u.Path, place, err)
	}
	for i, n := range nested {
		for _, source := range sources[i] {
			if err := unix.MoveMount(source, "", unix.AT_FDCWD, filepath.Join(place, n.place),
				unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
				return nil, fmt.Errorf("carry mount %s over: %w", n.source, err)
			}
		}
	}
	return Usr{Path: place}.cloneCurrent()
}

// scaffoldFor creates the mount points that the next /usr lacks, in a directory that becomes the uppermost layer. It
// copies owner, mode and time of directories that the next /usr has: an overlay shows those of the uppermost layer, and
// systemd takes the time of /usr as the time of the last update (ConditionNeedsUpdate=).
func scaffoldFor(root string, next *Detached, nested []nestedMount) error {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	var made []string
	for _, n := range nested {
		directory := n.place
		if !n.directory {
			directory = filepath.Dir(n.place)
		}
		if err := os.MkdirAll(filepath.Join(root, directory), 0o755); err != nil {
			return err
		}
		for ; directory != "."; directory = filepath.Dir(directory) {
			made = append(made, directory)
		}
		if !n.directory {
			if err := scaffoldFile(root, next, n.place); err != nil {
				return err
			}
		}
	}
	for _, directory := range append(made, ".") { // deepest first, for the times
		if err := copyAttributes(filepath.Join(root, directory), next, directory); err != nil {
			return err
		}
	}
	return nil
}

// scaffoldFile creates a mount point that is a file, unless the next /usr has it.
func scaffoldFile(root string, next *Detached, place string) error {
	has, err := existsAt(next.FD(), place)
	if err != nil || has {
		return err
	}
	return os.WriteFile(filepath.Join(root, place), nil, 0o644)
}

func copyAttributes(path string, next *Detached, place string) error {
	var stat unix.Stat_t
	err := unix.Fstatat(next.FD(), place, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stat %s of the next tree: %w", place, err)
	}
	if err := os.Chown(path, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(path, stat.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod %s: %w", path, err)
	}
	modified := time.Unix(stat.Mtim.Unix())
	return os.Chtimes(path, modified, modified)
}

func existsAt(fd int, path string) (bool, error) {
	var stat unix.Stat_t
	err := unix.Fstatat(fd, path, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return true, nil
}

func isDirectory(path string) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	return info.IsDir(), nil
}

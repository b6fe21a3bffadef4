package mounts

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// moveMountBeneath is MOVE_MOUNT_BENEATH of linux/mount.h (Linux 6.5), which package unix does not name.
const moveMountBeneath = 0x200

// ErrConstraint means that this system cannot swap /usr in one atomic operation. Nothing was changed: any other way
// would leave the system without /usr for a moment.
var ErrConstraint = errors.New("/usr cannot be swapped atomically here")

// Usr is a mount point at which /usr is mounted and swapped.
type Usr struct {
	// Path of the mount: "/usr".
	Path string
	// Scratch is an existing directory. Build mounts over it, in a mount namespace of its own.
	Scratch string
	// Kernel is the release of the running kernel. Its modules stay available below Path, whatever the stack has.
	Kernel string
}

// SystemUsr is the /usr of this system.
func SystemUsr() (Usr, error) {
	release, err := KernelRelease()
	if err != nil {
		return Usr{}, err
	}
	return Usr{Path: "/usr", Scratch: LayersDir, Kernel: release}, nil
}

// KernelRelease returns the release of the running kernel, as uname -r prints it.
func KernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// Detached is a mount tree that is not attached to any path yet.
type Detached struct {
	fd int
}

// FD returns the mount's root as an O_PATH file descriptor, which d owns.
func (d *Detached) FD() int { return d.fd }

// Path returns a path of the mount's root in /proc, which is valid while d is open.
func (d *Detached) Path() string { return fmt.Sprintf("/proc/self/fd/%d", d.fd) }

// Close releases the mount. If it was attached meanwhile, it stays mounted.
func (d *Detached) Close() error {
	if d == nil || d.fd < 0 {
		return nil
	}
	fd := d.fd
	d.fd = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("close detached mount: %w", err)
	}
	return nil
}

// BuildUsr creates the /usr of a stack for this system. layers are the paths of mounted layers, bottom to top.
func BuildUsr(ctx context.Context, layers []string) (*Detached, error) {
	usr, err := SystemUsr()
	if err != nil {
		return nil, err
	}
	return usr.Build(ctx, layers)
}

// Build creates a detached read-only mount of the layers' usr trees, bottom to top, ready for Swap.
//
// Mounts below the current Path are cloned into it. So are the modules of the running kernel if the new layers have
// those of another kernel.
func (u Usr) Build(ctx context.Context, layers []string) (*Detached, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("build %s: %w", u.Path, err)
	}
	bare, err := BuildTree(layers, "usr")
	if err != nil {
		return nil, err
	}
	nested, err := u.nested(bare)
	if err != nil {
		return nil, errors.Join(err, bare.Close())
	}
	if len(nested) == 0 {
		return bare, nil
	}
	whole, err := u.buildNested(layers, bare, nested)
	return whole, errors.Join(err, bare.Close())
}

// BuildTree creates a detached read-only mount of one directory of a stack, "." for all of it. layers are the paths of
// mounted layers, bottom to top. Layers without the directory are left out.
func BuildTree(layers []string, directory string) (*Detached, error) {
	return buildTree(layers, directory, onThrowawayThread)
}

// buildTree is BuildTree for a caller that provides the thread: see overlay.mount.
func buildTree(layers []string, directory string, run func(f func())) (*Detached, error) {
	var lowers []string
	for _, layer := range layers {
		path := filepath.Join(layer, directory)
		var stat unix.Stat_t
		switch err := unix.Lstat(path, &stat); {
		case errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return nil, fmt.Errorf("stat %s: %w", path, err)
		case stat.Mode&unix.S_IFMT != unix.S_IFDIR:
			return nil, fmt.Errorf("build %s: %s is not a directory", directory, path)
		}
		lowers = append(lowers, path)
	}
	switch len(lowers) {
	case 0:
		return nil, fmt.Errorf("build %s: none of %d layers has it", directory, len(layers))
	case 1:
		// overlayfs refuses a single lower directory without an upper one, and it is not needed: the layer is the tree.
		return cloneReadOnly(lowers[0])
	default:
		// A delta layer never redirects a directory and never has a file without data. So neither is followed, and a
		// layer can only show files at their own paths.
		o := overlay{lowers: lowers, options: [][2]string{{"redirect_dir", "nofollow"}, {"metacopy", "off"}}}
		o.attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV
		return o.mount(run)
	}
}

// cloneReadOnly clones one mount, private and read-only.
func cloneReadOnly(path string) (*Detached, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone mount %s: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return nil, errors.Join(fmt.Errorf("make clone of %s read-only: %w", path, err), unix.Close(fd))
	}
	return &Detached{fd: fd}, nil
}

// Swapped is the result of a swap.
type Swapped struct {
	// Previous is the previous mount, detached, with the mounts below it. To swap it in again undoes the swap.
	Previous *Detached
	// Took is the time of the two system calls.
	Took time.Duration
}

// Swap replaces the mount at u.Path by next atomically: every path lookup sees either the one or the other. It consumes
// next.
//
// It mounts next beneath the current mount, and then detaches the current one (move_mount(2), MOVE_MOUNT_BENEATH). If
// the kernel refuses the first step, nothing has changed, and the error is ErrConstraint with the reason.
func (u Usr) Swap(next *Detached) (swapped *Swapped, err error) {
	defer func() { err = errors.Join(err, next.Close()) }()
	previous, err := u.cloneCurrent()
	if err != nil {
		return nil, err
	}
	// The thread is locked so that nothing but the two calls is timed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	started := time.Now()
	err = unix.MoveMount(next.fd, "", unix.AT_FDCWD, u.Path, unix.MOVE_MOUNT_F_EMPTY_PATH|moveMountBeneath)
	if err != nil {
		return nil, errors.Join(u.constraint(err), previous.Close())
	}
	if failpoint.Built {
		if err := failpoint.Hit("between the calls of a swap"); err != nil {
			return nil, errors.Join(err, previous.Close())
		}
	}
	if err := unix.Unmount(u.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		// The current mount is still on top: nothing has changed for any process.
		return nil, errors.Join(fmt.Errorf("detach the current %s: %w", u.Path, err), previous.Close())
	}
	return &Swapped{Previous: previous, Took: time.Since(started)}, nil
}

// Finish completes a swap that was interrupted between its two calls, when the new mount is beneath the current one: it
// detaches the current one. Otherwise it does nothing.
func (u Usr) Finish() error {
	table, err := proc.OwnMountTable()
	if err != nil {
		return fmt.Errorf("finish a swap of %s: %w", u.Path, err)
	}
	for range max(0, len(table.Stacked(u.Path))-1) {
		if err := unix.Unmount(u.Path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("finish a swap of %s: %w", u.Path, err)
		}
	}
	return nil
}

// Current opens what is mounted at u.Path.
func (u Usr) Current() (*Detached, error) {
	fd, err := unix.Open(u.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the current %s: %w", u.Path, err)
	}
	return &Detached{fd: fd}, nil
}

// cloneCurrent clones the mount at u.Path with the mounts below it.
func (u Usr) cloneCurrent() (*Detached, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, u.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("clone the current %s: %w", u.Path, err)
	}
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return nil, errors.Join(fmt.Errorf("make the clone of %s private: %w", u.Path, err), unix.Close(fd))
	}
	return &Detached{fd: fd}, nil
}

// constraint explains why the kernel refused to mount beneath u.Path. The kernel's rules are in can_move_mount_beneath
// of fs/namespace.c.
func (u Usr) constraint(refusal error) error {
	if !errors.Is(refusal, unix.EINVAL) {
		return fmt.Errorf("mount beneath %s: %w", u.Path, refusal)
	}
	fail := func(reason string) error {
		return fmt.Errorf("mount beneath %s: %w: %s (%w); use a soft-reboot or a reboot", u.Path,
			ErrConstraint, reason, refusal)
	}
	if older, err := kernelOlder(u.Kernel, 6, 5); err != nil {
		return errors.Join(fail("unknown kernel"), err)
	} else if older {
		return fail("MOVE_MOUNT_BENEATH needs Linux 6.5, this is " + u.Kernel)
	}
	table, err := proc.OwnMountTable()
	if err != nil {
		return errors.Join(fail("unreadable mount table"), err)
	}
	mount := table.At(u.Path)
	if mount == nil {
		return fail("it is not a mount point of its own")
	}
	parent := table.ByID(mount.Parent)
	switch {
	case parent == nil:
		return fail("its parent mount is not visible from here")
	case mount.PeerGroup() != "" && mount.PeerGroup() == parent.PeerGroup():
		return fail("it is in the peer group of its parent mount; it needs one of its own")
	case table.ByID(parent.Parent) == nil && parent.Mountpoint == "/":
		return fail("its parent is the root mount of the namespace, beneath which nothing can be mounted")
	default:
		return fail("the kernel gave no reason")
	}
}

// kernelOlder reports whether release is before major.minor.
func kernelOlder(release string, major, minor int) (bool, error) {
	first, rest, _ := strings.Cut(release, ".")
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		rest = rest[:end]
	}
	gotMajor, errMajor := strconv.Atoi(first)
	gotMinor, errMinor := strconv.Atoi(rest)
	if err := errors.Join(errMajor, errMinor); err != nil {
		return false, fmt.Errorf("kernel release %q: %w", release, err)
	}
	return gotMajor < major || gotMajor == major && gotMinor < minor, nil
}

// Obstacle says why /usr cannot be swapped live in this system; "" if it can as far as is known.
func (u Usr) Obstacle() string {
	// Before 6.7 maps shows the device of the layer instead of the overlay's, so that old and new files look alike.
	minor, lacks := 7, "does not show from which overlay a process has mapped a file"
	older, err := kernelOlder(u.Kernel, 6, 5)
	if older {
		minor, lacks = 5, "cannot mount beneath"
	} else if err == nil {
		older, err = kernelOlder(u.Kernel, 6, 7)
	}
	switch {
	case err != nil:
		return "the kernel's release cannot be read: " + err.Error()
	case older:
		return fmt.Sprintf("Linux %s %s (6.%d is needed), so /usr cannot be swapped", u.Kernel, lacks, minor)
	}
	table, err := proc.OwnMountTable()
	if err != nil {
		return err.Error()
	}
	switch stacked := table.Stacked(u.Path); len(stacked) {
	case 0:
		return fmt.Sprintf("%v: %s is not a mount point of its own", ErrConstraint, u.Path)
	case 1:
		for i := range table {
			if strings.HasPrefix(table[i].Mountpoint, u.Path+"/") {
				if err := u.cannotCarry(table, &table[i]); err != nil {
					return err.Error() + "; unmount it first"
				}
			}
		}
		return ""
	default:
		// A swap replaces the topmost mount, and would take away what somebody else has mounted.
		top := stacked[len(stacked)-1]
		return fmt.Sprintf(
			"a file system of type %s from %q is mounted over %s, such as a system extension (systemd-sysext(8)), "+
				"and a swap would detach it: unmerge or unmount it first", top.FSType, top.Source, u.Path)
	}
}

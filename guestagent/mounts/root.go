package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PrivateTrees are the directories of the root that are on the private disk as a whole. Everything else that the VM
// writes is in the root overlay's upper directory.
var PrivateTrees = []PrivateTree{
	{Path: "var", Name: "var"},
	{Path: "home", Name: "home"},
	{Path: "root", Name: "root-home"},
	{Path: "srv", Name: "srv"},
}

// PrivateTree is a directory that is bind-mounted from the private disk.
type PrivateTree struct {
	// Path in the root, without a leading slash.
	Path string
	// Name of the directory on the private disk.
	Name string
}

// Directories of the root overlay on the private disk. Overlayfs requires them on one file system, and empties its work
// directory when it is mounted. So the root to which a soft-reboot switches needs another work directory than the
// current one: they take the two of RootWorks in turn.
const (
	RootUpper = "root/upper"
	RootWork  = "root/work"
)

// RootWorks are the work directories. A boot uses the first.
var RootWorks = [2]string{RootWork, "root/work-next"}

// rootOptions are the options of the root overlay. The lower layers change between boots, which overlayfs allows only
// for an upper directory that never used these features ("Changes to underlying filesystems",
// Documentation/filesystems/overlayfs.rst):
//
//   - metacopy: an upper file without data would take its data from whatever release is below;
//   - redirect_dir: a renamed directory would refer to a lower directory that the next release may not have;
//     renaming a directory of the OS fails with EXDEV instead, and mv(1) copies it;
//   - index and xino: both tie upper files to inode numbers and file handles of the layers below. Without index, the
//     next root can be mounted on the upper directory while the current root still is.
var rootOptions = [][2]string{
	{"metacopy", "off"},
	{"redirect_dir", "nofollow"},
	{"index", "off"},
	{"xino", "off"},
}

// Root is what AssembleRoot mounts.
type Root struct {
	// Layers are the paths of mounted layers, bottom to top.
	Layers []string
	// Base is how many of them, from the bottom, the root overlay stands on; 0 for all. Layers above come and go with a
	// swap of /usr while the root stays: what they have elsewhere is carried to the private disk.
	Base int
	// Private is the mount point of the private disk, which has the directories of the root overlay.
	Private string
	// Work is one of RootWorks, "" for the first.
	Work string
	// Modules is a mounted usr tree with the running kernel's modules: that of a layer, or the current one. It is used
	// only if the layers lack them; "" if there is none.
	Modules string
	// Kernel is the release of the running kernel.
	Kernel string
}

// AssembleRoot mounts a stack at target: the root overlay of the layers and the private disk, /usr as a mount of its
// own without a peer group, and the private trees. After a failure some of it stays mounted: the caller does not go on
// then.
func AssembleRoot(ctx context.Context, target string, root Root) error {
	whole, err := rootOverlay(root)
	if err != nil {
		return fmt.Errorf("assemble /: %w", err)
	}
	if err := whole.Attach(target); err != nil {
		return fmt.Errorf("assemble /: %w", err)
	}
	usr, err := buildFirstUsr(ctx, root)
	if err != nil {
		return fmt.Errorf("assemble /usr: %w", err)
	}
	if err := usr.Attach(filepath.Join(target, "usr")); err != nil {
		return fmt.Errorf("assemble /usr: %w", err)
	}
	for _, tree := range PrivateTrees {
		if err := bindPrivate(filepath.Join(root.Private, tree.Name), filepath.Join(target, tree.Path)); err != nil {
			return fmt.Errorf("assemble /%s: %w", tree.Path, err)
		}
	}
	return nil
}

// buildFirstUsr creates the /usr of a boot. The modules of a kernel that is not the stack's come from root.Modules.
func buildFirstUsr(ctx context.Context, root Root) (*Detached, error) {
	if root.Modules == "" {
		return BuildTree(root.Layers, "usr")
	}
	return Usr{Path: root.Modules, Scratch: LayersDir, Kernel: root.Kernel}.Build(ctx, root.Layers)
}

func bindPrivate(source, point string) error {
	if err := os.Mkdir(point, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, source,
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("clone mount %s: %w", source, err)
	}
	clone := &Detached{fd: fd}
	return clone.Attach(point)
}

// rootOverlay creates the writable overlay of the layers and the private disk, as a detached mount.
func rootOverlay(root Root) (*Detached, error) {
	work := root.Work
	if work == "" {
		work = RootWork
	}
	o := overlay{
		options: rootOptions, lowers: root.base(),
		upper: filepath.Join(root.Private, RootUpper), work: filepath.Join(root.Private, work),
	}
	return o.mount(onThrowawayThread)
}

// base returns the layers on which the root overlay stands.
func (r Root) base() []string {
	if r.Base <= 0 || r.Base > len(r.Layers) {
		return r.Layers
	}
	return r.Layers[:r.Base]
}

// Attach mounts d at a path, and closes it.
func (d *Detached) Attach(path string) error {
	err := unix.MoveMount(d.fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		err = fmt.Errorf("attach mount at %s: %w", path, err)
	}
	return errors.Join(err, d.Close())
}

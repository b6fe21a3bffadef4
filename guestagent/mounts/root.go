package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// PrivateTrees are the directories of the root that live on the private disk as a whole, by their name there.
// Everything else of the VM's own is in the root overlay's upper directory.
var PrivateTrees = []PrivateTree{
	{Path: "var", Name: "var"},
	{Path: "home", Name: "home"},
	{Path: "root", Name: "root-home"},
	{Path: "srv", Name: "srv"},
}

// PrivateTree is one directory that is bound from the private disk.
type PrivateTree struct {
	// Path in the root, without a leading slash.
	Path string
	// Name of the directory on the private disk.
	Name string
}

// Directories of the root overlay on the private disk: one file system, as overlayfs demands.
const (
	RootUpper = "root/upper"
	RootWork  = "root/work"
)

// rootOptions are the root overlay's. A stack replaces the lower layers between boots, which overlayfs allows
// only for an upper directory that never used these features ("Changes to underlying filesystems",
// Documentation/filesystems/overlayfs.rst):
//
//   - metacopy: an upper file of metadata alone would take its content from whatever release is below;
//   - redirect_dir: a renamed directory would name a lower one that the next release may not have;
//     renaming a directory of the OS gives EXDEV instead, and mv(1) copies;
//   - index and xino: both bind upper files to inode numbers and file handles of the layers below.
var rootOptions = []struct{ key, value string }{
	{"metacopy", "off"},
	{"redirect_dir", "nofollow"},
	{"index", "off"},
	{"xino", "off"},
}

// AssembleRoot mounts a stack at target: the root overlay of the layers and the private disk, /usr as a mount of
// its own, and the private trees. Layers are mount points, bottom to top; private is the private disk's mount
// point, whose directories must exist. It needs Linux 6.7. What was mounted before a failure stays: the caller
// is in a mount namespace that it gives up then.
func AssembleRoot(target string, layers []string, private string) error {
	root, err := overlayRoot(layers, filepath.Join(private, RootUpper), filepath.Join(private, RootWork))
	if err != nil {
		return fmt.Errorf("assemble /: %w", err)
	}
	if err := Attach(root, target); err != nil {
		return fmt.Errorf("assemble /: %w", err)
	}
	usr, err := usrTree(layers)
	if err != nil {
		return fmt.Errorf("assemble /usr: %w", err)
	}
	if err := Attach(usr, filepath.Join(target, "usr")); err != nil {
		return fmt.Errorf("assemble /usr: %w", err)
	}
	for _, tree := range PrivateTrees {
		point := filepath.Join(target, tree.Path)
		if err := os.Mkdir(point, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("assemble /%s: %w", tree.Path, err)
		}
		clone, err := cloneMount(filepath.Join(private, tree.Name))
		if err != nil {
			return fmt.Errorf("assemble /%s: %w", tree.Path, err)
		}
		if err := Attach(clone, point); err != nil {
			return fmt.Errorf("assemble /%s: %w", tree.Path, err)
		}
	}
	return nil
}

// MergedLower is a detached, read-only mount of the layers as one tree, bottom to top, without any private disk:
// where tools run before there is one, and what private trees are seeded from. The caller closes it.
func MergedLower(layers []string) (int, error) {
	if len(layers) == 1 {
		return cloneMount(layers[0])
	}
	return overlayRoot(layers, "", "")
}

// usrTree is a detached, read-only mount of the layers' usr trees. Overlayfs refuses a single lower directory
// without an upper one, so one layer alone is a clone of its own mount.
func usrTree(layers []string) (int, error) {
	trees := make([]string, len(layers))
	for i, layer := range layers {
		trees[i] = filepath.Join(layer, "usr")
	}
	return MergedLower(trees)
}

// overlayRoot makes a detached overlay of the layers, bottom to top, writable if there is an upper directory.
func overlayRoot(layers []string, upper, work string) (fd int, err error) {
	context, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open overlay (is the module loaded?): %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(context)) }()
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(context, key, value); err != nil {
			return fmt.Errorf("overlay %s=%s: %w", key, value, withKernelLog(context, err))
		}
		return nil
	}
	if err := set("source", "sharedos"); err != nil {
		return -1, err
	}
	// One by one, the top first: the paths of a long chain do not fit in one option.
	for i := len(layers) - 1; i >= 0; i-- {
		if err := set("lowerdir+", layers[i]); err != nil {
			return -1, err
		}
	}
	for _, option := range rootOptions {
		if err := set(option.key, option.value); err != nil {
			return -1, err
		}
	}
	attributes := unix.MOUNT_ATTR_RDONLY
	if upper != "" {
		attributes = 0
		if err := set("upperdir", upper); err != nil {
			return -1, err
		}
		if err := set("workdir", work); err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("create overlay: %w", withKernelLog(context, err))
	}
	fd, err = unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return -1, fmt.Errorf("mount overlay: %w", err)
	}
	return fd, nil
}

// cloneMount is a detached clone of the mount at path, in no peer group.
func cloneMount(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("clone mount %s: %w", path, err)
	}
	attributes := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return -1, errors.Join(fmt.Errorf("make clone of %s private: %w", path, err), unix.Close(fd))
	}
	return fd, nil
}

// Attach mounts a detached mount at path and closes its descriptor.
func Attach(fd int, path string) error {
	err := unix.MoveMount(fd, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		err = fmt.Errorf("attach mount at %s: %w", path, err)
	}
	return errors.Join(err, unix.Close(fd))
}

// withKernelLog adds what the kernel wrote to a file system context about the failure; see fsopen(2).
func withKernelLog(context int, err error) error {
	var text [1024]byte
	n, readErr := unix.Read(context, text[:])
	if readErr != nil || n <= 0 {
		return err // ENODATA: it wrote nothing
	}
	return fmt.Errorf("%w (kernel: %q)", err, text[:n])
}

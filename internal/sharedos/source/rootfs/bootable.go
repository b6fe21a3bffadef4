package rootfs

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrNotBootable means that a tree lacks something that a VM needs to boot from it.
var ErrNotBootable = errors.New("the tree cannot boot")

// MissingError lists everything that a tree lacks. It wraps ErrNotBootable.
type MissingError struct {
	Missing []Missing
}

// Missing is one thing that a tree lacks.
type Missing struct {
	// What names the missing thing.
	What string
	// Remedy says how to add it on Debian.
	Remedy string
}

func (e *MissingError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %d missing:", ErrNotBootable, len(e.Missing))
	for _, m := range e.Missing {
		fmt.Fprintf(&b, "\n  - %s (%s)", m.What, m.Remedy)
	}
	return b.String()
}

func (e *MissingError) Unwrap() error { return ErrNotBootable }

// initPath is the program that the initramfs executes.
const initPath = "sbin/init"

// requiredModules must be built into the kernel or exist as modules.
var requiredModules = []struct{ name, use string }{
	{"virtio_pci", "its devices"},
	{"virtio_blk", "layers and the private disk"},
	{"virtio_net", "the network"},
	{"vmw_vsock_virtio_transport", "the agent's connection to the host"},
	{"erofs", "layers"},
	{"overlay", "stacks of layers"},
	{"dm_mod", "verifying layers"},
	{"dm_verity", "verifying layers"},
	{"ext4", "the private disk"},
}

// CheckBootable verifies that a VM can boot from a tree that is not normalised, and returns its kernel. If something is
// missing, the error is a *MissingError that lists everything, each with the Debian package that contains it.
func CheckBootable(t *tree.Tree) (KernelInfo, error) {
	var missing []Missing
	for _, dir := range []string{"bin", "sbin", "lib"} {
		if !mergedUsr(t, dir) {
			missing = append(missing, Missing{
				What:   "merged /usr: /" + dir + " is not a symbolic link to usr/" + dir,
				Remedy: "install usrmerge on Debian 11, usr-is-merged since",
			})
		}
	}
	if !isSystemd(t) {
		missing = append(missing, Missing{What: "systemd as /" + initPath, Remedy: "install systemd-sysv"})
	}
	if !program(t, "mkfs.ext4") {
		missing = append(missing, Missing{What: "mkfs.ext4", Remedy: "install e2fsprogs"})
	}
	k, err := Kernel(t)
	switch {
	case errors.Is(err, ErrNoKernel):
		missing = append(missing, Missing{
			What:   ErrNoKernel.Error(),
			Remedy: "install linux-image-cloud-amd64 or linux-image-amd64",
		})
	case err != nil:
		return KernelInfo{}, err
	default:
		missing = append(missing, missingModules(t, k)...)
	}
	if len(missing) > 0 {
		return KernelInfo{}, &MissingError{Missing: missing}
	}
	return k, nil
}

// mergedUsr reports whether a top-level directory is a symbolic link into /usr.
func mergedUsr(t *tree.Tree, dir string) bool {
	e, ok := t.Lookup(dir)
	if !ok || e.Type != tree.Symlink {
		return false
	}
	to, err := t.Resolve(dir)
	// Other distributions have merged bin and sbin, so any directory below /usr will do.
	return err == nil && to.Type == tree.Directory && strings.HasPrefix(to.Path, "usr/")
}

// isSystemd reports whether init is systemd.
func isSystemd(t *tree.Tree) bool {
	e, err := t.Resolve(initPath)
	return err == nil && e.Type == tree.Regular && path.Base(e.Path) == "systemd"
}

// program reports whether a program is in root's PATH.
func program(t *tree.Tree, name string) bool {
	for _, dir := range []string{"usr/sbin", "usr/bin", "sbin", "bin"} {
		if e, err := t.Resolve(dir + "/" + name); err == nil && e.Type == tree.Regular && e.Mode&0o111 != 0 {
			return true
		}
	}
	return false
}

// missingModules lists the required modules that are neither built in nor exist as a file.
func missingModules(t *tree.Tree, k KernelInfo) []Missing {
	have, err := kernelModules(t, k)
	if err != nil {
		return []Missing{{
			What:   fmt.Sprintf("the lists of modules of kernel %s (%v)", k.Release, err),
			Remedy: "run depmod " + k.Release + " in the tree, or install the kernel's package again",
		}}
	}
	var missing []Missing
	for _, m := range requiredModules {
		if !have[m.name] {
			missing = append(missing, Missing{
				What:   fmt.Sprintf("module %s of kernel %s, for %s", m.name, k.Release, m.use),
				Remedy: "install a kernel with this module, such as linux-image-cloud-amd64 or linux-image-amd64 of Debian 13",
			})
		}
	}
	return missing
}

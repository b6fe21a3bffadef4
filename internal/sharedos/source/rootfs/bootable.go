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

// MissingError names all that a tree lacks. It wraps ErrNotBootable.
type MissingError struct {
	Missing []Missing
}

// Missing is one thing that a tree lacks.
type Missing struct {
	// What is missing.
	What string
	// Remedy says what brings it on Debian.
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

// initPath is what the guest hands over to.
const initPath = "sbin/init"

// requiredModules are what a guest needs of its kernel, as modules or built in.
var requiredModules = []struct{ name, use string }{
	{"virtio_pci", "its devices"},
	{"virtio_blk", "layers and the private disk"},
	{"virtio_net", "the network"},
	{"vmw_vsock_virtio_transport", "the agent's connection to the host"},
	{"erofs", "layers"},
	{"overlay", "stacks of layers"},
	{"dm_mod", "checking layers"},
	{"dm_verity", "checking layers"},
	{"ext4", "the private disk"},
}

// CheckBootable checks that a VM can boot from a tree that has not been normalised, and returns its kernel. It
// looks at everything before it complains: the error is a *MissingError that names all that is missing, each with
// the package that brings it on Debian.
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

// mergedUsr reports whether a directory of old is a link into /usr.
func mergedUsr(t *tree.Tree, dir string) bool {
	e, ok := t.Lookup(dir)
	if !ok || e.Type != tree.Symlink {
		return false
	}
	to, err := t.Resolve(dir)
	// Since Debian's bin and sbin may be one directory elsewhere, it is enough that the link ends below /usr.
	return err == nil && to.Type == tree.Directory && strings.HasPrefix(to.Path, "usr/")
}

// isSystemd reports whether init leads to systemd.
func isSystemd(t *tree.Tree) bool {
	e, err := t.Resolve(initPath)
	return err == nil && e.Type == tree.Regular && path.Base(e.Path) == "systemd"
}

// program reports whether a program is where root's PATH finds it.
func program(t *tree.Tree, name string) bool {
	for _, dir := range []string{"usr/sbin", "usr/bin", "sbin", "bin"} {
		if e, err := t.Resolve(dir + "/" + name); err == nil && e.Type == tree.Regular && e.Mode&0o111 != 0 {
			return true
		}
	}
	return false
}

// missingModules lists required modules that the kernel has neither built in nor as a file.
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
				Remedy: "install a kernel that has it, such as linux-image-cloud-amd64 or linux-image-amd64 of Debian 13",
			})
		}
	}
	return missing
}

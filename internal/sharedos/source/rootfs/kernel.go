package rootfs

import (
	"errors"
	"io"
	"path"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// KernelInfo describes the kernel that VMs boot.
type KernelInfo struct {
	// Release is what uname -r prints.
	Release string
	// ImagePath of the kernel image and ModulesDir of its modules, as entry paths of the tree.
	ImagePath, ModulesDir string
}

const modulesDir = "usr/lib/modules"

// ErrNoKernel means that no directory of modules has a matching kernel image.
var ErrNoKernel = errors.New("no kernel: no /usr/lib/modules/<release> with /boot/vmlinuz-<release>")

// Kernel returns the newest kernel of a tree that is not normalised: the highest version of /usr/lib/modules/<release>
// that has an image, either /boot/vmlinuz-<release> or vmlinuz in the directory of the modules.
func Kernel(t *tree.Tree) (KernelInfo, error) {
	var newest KernelInfo
	for _, e := range t.Entries {
		release, ok := strings.CutPrefix(e.Path, modulesDir+"/")
		if !ok || e.Type != tree.Directory || strings.Contains(release, "/") {
			continue
		}
		if newest.Release != "" && compareVersions(release, newest.Release) <= 0 {
			continue
		}
		for _, image := range []string{"boot/vmlinuz-" + release, e.Path + "/vmlinuz"} {
			if found, err := t.Resolve(image); err == nil && found.Type == tree.Regular {
				newest = KernelInfo{Release: release, ImagePath: found.Path, ModulesDir: e.Path}
				break
			}
		}
	}
	if newest.Release == "" {
		return KernelInfo{}, ErrNoKernel
	}
	return newest, nil
}

// compareVersions orders versions as Debian does (deb-version(7)): runs of digits by number, the rest by letters
// before other characters, "~" before everything.
func compareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a = cutWhile(a, func(c byte) bool { return !digit(c) })
		y, b = cutWhile(b, func(c byte) bool { return !digit(c) })
		for i := range max(len(x), len(y)) {
			if d := weight(x, i) - weight(y, i); d != 0 {
				return d
			}
		}
		x, a = cutWhile(a, digit)
		y, b = cutWhile(b, digit)
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if d := len(x) - len(y); d != 0 {
			return d
		}
		if d := strings.Compare(x, y); d != 0 {
			return d
		}
	}
	return 0
}

func digit(c byte) bool { return c >= '0' && c <= '9' }

func cutWhile(s string, is func(byte) bool) (head, tail string) {
	n := 0
	for n < len(s) && is(s[n]) {
		n++
	}
	return s[:n], s[n:]
}

// weight orders the characters of a version: "~", the end, letters, all others.
func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z':
		return int(s[i])
	default:
		return int(s[i]) + 256
	}
}

// maxModuleList bounds modules.dep and modules.builtin in bytes.
const maxModuleList = 32 << 20

// kernelModules returns the names of a kernel's modules: those built in, and those whose file exists.
func kernelModules(t *tree.Tree, k KernelInfo) (map[string]bool, error) {
	have := make(map[string]bool)
	builtin, err := t.ReadFile(k.ModulesDir+"/modules.builtin", maxModuleList)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(builtin)) {
		have[moduleName(strings.TrimSpace(line))] = true
	}
	dep, err := t.ReadFile(k.ModulesDir+"/modules.dep", maxModuleList)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(dep)) {
		file, _, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		if e, ok := t.Lookup(path.Join(k.ModulesDir, file)); ok && e.Type == tree.Regular {
			have[moduleName(file)] = true
		}
	}
	return have, nil
}

// moduleName returns the kernel's name of the module in a file, with "_" for "-".
func moduleName(file string) string {
	name := path.Base(file)
	for _, packed := range []string{".xz", ".zst", ".gz"} {
		name = strings.TrimSuffix(name, packed)
	}
	return strings.ReplaceAll(strings.TrimSuffix(name, ".ko"), "-", "_")
}

// readFull fills buf from r and closes r.
func readFull(r io.ReadCloser, buf []byte) (int, error) {
	n, err := io.ReadFull(r, buf)
	return n, errors.Join(err, r.Close())
}

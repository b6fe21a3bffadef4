package etcmerge

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// leave reports whether a path below /etc stays as it is, since only a component of the old stack had it: as after the
// removal of a package, the configuration of a component stays when it goes. What would lead nowhere, and what starts
// something, goes with it.
//
// When a component comes back, what stayed is compared with what the component had when it went: a file that nobody has
// changed since is brought to the new version.
func (p *planner) leave(d *Difference, ours *tree.Entry) (bool, error) {
	if tree.OwnerOf(d.Path) != tree.Merged {
		return false, nil
	}
	if d.Old == nil && d.New != nil && ours != nil {
		if left, has := p.old.left[d.Path]; has {
			d.Old = &left
		}
		return false, nil
	}
	if d.Old == nil || d.New != nil || ours == nil || !p.old.ofComponents[d.Path] || startsSomething(d.Path) {
		return false, nil
	}
	switch ours.Type {
	case tree.Regular:
	case tree.Symlink:
		if leads, err := p.leads(d.Path, ours.Link); !leads || err != nil {
			return false, err
		}
	default:
		return false, nil // a directory goes once nothing is in it
	}
	p.left = append(p.left, clone(d.Old))
	return true, nil
}

// startsSomething reports whether systemd starts something because of a path below /etc: units, and the scripts from
// which systemd-sysv-generator(8) makes units.
func startsSomething(name string) bool {
	rest := strings.TrimPrefix(name, "etc/")
	first, _, _ := strings.Cut(rest, "/")
	return first == "systemd" || first == "init.d" ||
		len(first) == 5 && strings.HasPrefix(first, "rc") && strings.HasSuffix(first, ".d")
}

// leads reports whether the target of a link at a path exists once the carry is done.
func (p *planner) leads(name, target string) (bool, error) {
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	at := strings.TrimPrefix(path.Clean(target), "/")
	root := p.live
	if tree.OwnerOf(at) == tree.OwnedByOS {
		root = p.new
	}
	_, err := root.Lstat(at)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || at == "" {
		return at == "", nil
	}
	// A path that leads out of the root by way of other links is none that can be looked up here.
	return true, nil
}

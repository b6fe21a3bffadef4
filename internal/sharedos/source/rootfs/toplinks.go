package rootfs

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// topLinks are directories of a VM that may be links in a source: images of ostree and bootc have them below /var and
// /sysroot. In a VM each is a directory of its own, and the link goes the other way.
var topLinks = []string{"home", "root", "srv", "mnt", "tmp", "boot"}

// unlinkTop turns links at the top into directories with what the links lead to.
func (n *normaliser) unlinkTop() error {
	for _, name := range topLinks {
		link, ok := n.at(name)
		if !ok || link.Type != tree.Symlink {
			continue
		}
		target := strings.TrimPrefix(path.Join("/", link.Link), "/")
		if !slices.ContainsFunc([]string{"var", "sysroot", "run"},
			func(dir string) bool { return below(target, dir) }) {
			return fmt.Errorf(
				"/%s is a link to %q: it must be a directory, or a link to a directory below /var or /sysroot", name,
				source.Shorten(link.Link))
		}
		n.drop(name)
		to, ok := n.at(target)
		switch {
		case !ok: // it would be made at boot, or was removed with all that is not shared
			continue
		case to.Type != tree.Directory:
			return fmt.Errorf("/%s is a link to /%s, which is a %s: it must be a directory", name, target, to.Type)
		}
		if err := n.relocate(move{from: target, to: name}); err != nil {
			return fmt.Errorf("move /%s to /%s: %w", target, name, err)
		}
		if err := n.put(symlink(target, strings.Repeat("../", strings.Count(target, "/"))+name)); err != nil {
			return err
		}
	}
	return nil
}

// drop removes an entry.
func (n *normaliser) drop(p string) {
	i := n.index[p]
	n.entries = slices.Delete(n.entries, i, i+1)
	delete(n.index, p)
	for name, at := range n.index {
		if at > i {
			n.index[name] = at - 1
		}
	}
}

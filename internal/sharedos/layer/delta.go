package layer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The marks to which overlayfs gives a special meaning (kernel, Documentation/filesystems/overlayfs.rst).
const (
	overlayPrefix = "trusted.overlay."
	opaqueName    = overlayPrefix + "opaque"
	opaqueValue   = "y"
)

// ErrOverlayMark means that an entry of a tree looks like a mark of overlayfs, so it would disappear when mounted.
var ErrOverlayMark = errors.New("overlayfs would interpret it as one of its own marks")

// CheckTree reports the first entry that overlayfs would interpret as a mark in a layer: a character device
// 0:0, which is a whiteout, or an extended attribute "trusted.overlay.*". The error matches ErrOverlayMark.
func CheckTree(entries []tree.Entry) error {
	for i := range entries {
		e := &entries[i]
		if IsWhiteout(e) {
			return fmt.Errorf("%q is the character device 0:0: %w; remove it from the source", e.Path, ErrOverlayMark)
		}
		for name := range e.Xattrs {
			if strings.HasPrefix(name, overlayPrefix) {
				return fmt.Errorf("%q has the extended attribute %q: %w; remove it from the source",
					e.Path, name, ErrOverlayMark)
			}
		}
	}
	return nil
}

// IsWhiteout reports whether e is a whiteout: overlayfs' mark that a path of a lower layer is removed.
func IsWhiteout(e *tree.Entry) bool {
	return e.Type == tree.CharDevice && e.Major == 0 && e.Minor == 0
}

// Delta returns the entries of the layer that, on top of the layers of the tree old, yields the tree
// new. Both trees must pass CheckTree. The result is a tree, too, with its entries in a tree's order.
//
// The delta contains every entry that was added or changed, as a whole even if only its metadata changed; the root and
// every top-level directory; and the parents of all these, as they are in new. A whiteout stands for an entry that was
// removed from a directory that still exists. A directory is opaque if it replaces another type of file, or if none of
// its old entries is left.
//
// A top-level directory can be mounted separately (lowerdir=<layer>/usr), and the kernel ignores
// marks on the root of such a mount. So these directories are always in the delta, and one that was
// a directory before has whiteouts instead of being opaque.
func Delta(old, new []tree.Entry) []tree.Entry {
	d := compare(old, new)
	delta := d.whiteouts(old)
	// A layer is a tree, so it contains the parents of every entry.
	for i := range new {
		if d.take[i] {
			for at := d.parent(i); !d.take[at]; at = d.parent(at) {
				d.take[at] = true
			}
		}
	}
	for i := range new {
		if !d.take[i] {
			continue
		}
		e := new[i]
		if d.opaque[i] {
			marked := map[string]string{opaqueName: opaqueValue}
			maps.Copy(marked, e.Xattrs)
			e.Xattrs = marked
		}
		delta = append(delta, e)
	}
	slices.SortFunc(delta, func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
	return delta
}

// difference is the difference of two trees, as indices of their entries.
type difference struct {
	new tree.Tree
	// take are the entries of the new tree that the delta contains.
	take []bool
	// kept are the entries of the new tree whose paths the old one has, too, changed or not.
	kept []bool
	// opaque are the directories of the new tree that hide everything below them in the old one.
	opaque map[int]bool
	// gone lists the removed entries of the old tree, by the directory of the new tree that contained them.
	gone map[int][]int
}

// compare walks both trees in parallel.
func compare(old, new []tree.Entry) *difference {
	d := &difference{
		new: tree.Tree{Entries: new}, take: make([]bool, len(new)), kept: make([]bool, len(new)),
		opaque: make(map[int]bool), gone: make(map[int][]int),
	}
	for i, j := 0, 0; i < len(old) || j < len(new); {
		var order int
		switch {
		case i == len(old):
			order = 1
		case j == len(new):
			order = -1
		default:
			order = tree.Compare(old[i].Path, new[j].Path)
		}
		switch {
		case order < 0:
			if at, ok := d.new.Index(tree.Parent(old[i].Path)); ok && new[at].Type == tree.Directory {
				d.gone[at] = append(d.gone[at], i)
			}
			i++
		case order > 0:
			d.take[j] = true
			j++
		default:
			d.kept[j] = true
			d.take[j] = mountable(&new[j]) || !tree.Equal(old[i], new[j])
			if new[j].Type == tree.Directory && old[i].Type != tree.Directory {
				d.opaque[j] = true
			}
			i, j = i+1, j+1
		}
	}
	return d
}

// mountable reports whether an entry is the root or a top-level directory.
func mountable(e *tree.Entry) bool {
	return e.Type == tree.Directory && tree.Parent(e.Path) == tree.Root
}

// parent returns the directory that holds an entry of the new tree.
func (d *difference) parent(i int) int {
	at, _ := d.new.Index(tree.Parent(d.new.Entries[i].Path)) // a tree has it
	return at
}

// whiteouts returns whiteouts for the entries that were removed from directories that still exist.
// A directory that keeps none of its entries becomes opaque instead.
func (d *difference) whiteouts(old []tree.Entry) []tree.Entry {
	lively := make(map[int]bool)
	if len(d.gone) > 0 {
		for i := range d.kept {
			if d.kept[i] && i > 0 {
				lively[d.parent(i)] = true
			}
		}
	}
	var marks []tree.Entry
	for directory, gone := range d.gone {
		d.take[directory] = true
		e := &d.new.Entries[directory]
		if !lively[directory] && !mountable(e) {
			d.opaque[directory] = true
			continue
		}
		for _, i := range gone {
			marks = append(marks, tree.Entry{Path: old[i].Path, Type: tree.CharDevice, ModTime: e.ModTime})
		}
	}
	return marks
}

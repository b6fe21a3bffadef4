package layer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// What overlayfs reads as marks of its own (kernel, Documentation/filesystems/overlayfs.rst).
const (
	overlayPrefix = "trusted.overlay."
	opaqueName    = overlayPrefix + "opaque"
	opaqueValue   = "y"
)

// ErrOverlayMark means that a tree itself holds what overlayfs would read as a mark: it would vanish when mounted.
var ErrOverlayMark = errors.New("overlayfs would take it for a mark of its own")

// CheckTree reports the first entry that could not be told from a mark of overlayfs once the tree is a layer: a
// character device 0:0, which is a whiteout, or an extended attribute "trusted.overlay.*". The error matches
// ErrOverlayMark.
func CheckTree(entries []tree.Entry) error {
	for i := range entries {
		e := &entries[i]
		if IsWhiteout(e) {
			return fmt.Errorf("%q is the character device 0:0: %w; remove it from the source", e.Path, ErrOverlayMark)
		}
		for name := range e.Xattrs {
			if strings.HasPrefix(name, overlayPrefix) {
				return fmt.Errorf("%q has the extended attribute %q: %w; remove it from the source", e.Path, name, ErrOverlayMark)
			}
		}
	}
	return nil
}

// IsWhiteout reports whether e is overlayfs' mark of a path that is not there.
func IsWhiteout(e *tree.Entry) bool {
	return e.Type == tree.CharDevice && e.Major == 0 && e.Minor == 0
}

// Delta returns the entries of the layer that makes the tree new of the tree old when it lies over old's layers.
// Both are in a tree's order and pass CheckTree; so is the delta, which is a tree itself.
//
// It holds every entry that was added or changed, whole even if its metadata alone changed; the root and every
// directory at the top level; and the parents of all these, as they are in new. A whiteout stands for an entry
// that went from a directory that stayed. A directory that took the place of another kind of file, or of whose
// entries none stayed, is opaque.
//
// A directory of the top level can be mounted by itself (lowerdir=<layer>/usr), where the kernel heeds no mark on
// it: so such a directory is always there, and has whiteouts rather than being opaque if it was a directory before.
func Delta(old, new []tree.Entry) []tree.Entry {
	d := compare(old, new)
	delta := d.whiteouts(old)
	// A layer is a tree: whatever it holds brings its parents.
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

// difference tells two trees apart, by indices of their entries.
type difference struct {
	new tree.Tree
	// take is what the delta holds of the new tree.
	take []bool
	// kept is what the old tree had too, changed or not.
	kept []bool
	// opaque are directories of the new tree that hide what was there.
	opaque map[int]bool
	// gone has, by directories of the new tree that the old one had too, the entries of the old one that went.
	gone map[int][]int
}

// compare walks two trees side by side.
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

// mountable reports whether an entry is the root or a directory of the top level.
func mountable(e *tree.Entry) bool {
	return e.Type == tree.Directory && tree.Parent(e.Path) == tree.Root
}

// parent returns the directory that holds an entry of the new tree.
func (d *difference) parent(i int) int {
	at, _ := d.new.Index(tree.Parent(d.new.Entries[i].Path)) // a tree has it
	return at
}

// whiteouts returns marks for what went from directories that stayed. A directory of whose entries none stayed
// becomes opaque instead.
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

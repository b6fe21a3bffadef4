package layer

import (
	"errors"
	"fmt"
	"path"
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
	before, after := index(old), index(new)
	childrenBefore := children(old)

	take := make(map[string]bool)
	opaque := make(map[string]bool)
	var whiteouts []tree.Entry
	for i := range new {
		e := &new[i]
		was := before[e.Path]
		topDirectory := e.Type == tree.Directory && path.Dir(e.Path) == tree.Root
		if was == nil || topDirectory || e.Path == tree.Root || !tree.Equal(*was, *e) {
			take[e.Path] = true
		}
		if e.Type != tree.Directory || was == nil {
			continue
		}
		if was.Type != tree.Directory {
			opaque[e.Path] = true
			continue
		}
		var gone []string
		for _, child := range childrenBefore[e.Path] {
			if after[child] == nil {
				gone = append(gone, child)
			}
		}
		if len(gone) > 0 && len(gone) == len(childrenBefore[e.Path]) && e.Path != tree.Root && !topDirectory {
			opaque[e.Path] = true
			take[e.Path] = true
			continue
		}
		for _, child := range gone {
			whiteouts = append(whiteouts, tree.Entry{Path: child, Type: tree.CharDevice, ModTime: e.ModTime})
			take[e.Path] = true
		}
	}

	// A layer is a tree: whatever it holds brings its parents.
	for i := range new {
		if take[new[i].Path] {
			for parent := tree.Parent(new[i].Path); !take[parent]; parent = tree.Parent(parent) {
				take[parent] = true
			}
		}
	}
	delta := whiteouts
	for i := range new {
		e := new[i]
		if !take[e.Path] {
			continue
		}
		if opaque[e.Path] {
			marked := map[string]string{opaqueName: opaqueValue}
			for name, value := range e.Xattrs {
				marked[name] = value
			}
			e.Xattrs = marked
		}
		delta = append(delta, e)
	}
	slices.SortFunc(delta, func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
	return delta
}

func index(entries []tree.Entry) map[string]*tree.Entry {
	byPath := make(map[string]*tree.Entry, len(entries))
	for i := range entries {
		byPath[entries[i].Path] = &entries[i]
	}
	return byPath
}

// children returns the paths that lie in each directory, in order.
func children(entries []tree.Entry) map[string][]string {
	byParent := make(map[string][]string)
	for i := range entries {
		if p := entries[i].Path; p != tree.Root {
			byParent[tree.Parent(p)] = append(byParent[tree.Parent(p)], p)
		}
	}
	return byParent
}

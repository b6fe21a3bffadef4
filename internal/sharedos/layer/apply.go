package layer

import (
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Apply returns the entries that overlayfs shows of a layer that Delta made on top of a tree. The tree may be another
// one than the layer was made for. The result is sorted as a tree is.
func Apply(lower, delta []tree.Entry) []tree.Entry {
	shown := make(map[string]tree.Entry, len(lower)+len(delta))
	for _, e := range lower {
		shown[e.Path] = e
	}
	// hidden are paths below which nothing of lower is shown.
	hidden := map[string]bool{}
	for _, e := range delta {
		below, there := shown[e.Path]
		if IsWhiteout(&e) || e.Xattrs[opaqueName] == opaqueValue ||
			there && (below.Type == tree.Directory) != (e.Type == tree.Directory) {
			hidden[e.Path] = true
		}
	}
	if len(hidden) > 0 {
		maps.DeleteFunc(shown, func(at string, _ tree.Entry) bool {
			for ; at != tree.Root; at = tree.Parent(at) {
				if hidden[at] {
					return true
				}
			}
			return false
		})
	}
	for _, e := range delta {
		if IsWhiteout(&e) {
			continue
		}
		if e.Xattrs[opaqueName] == opaqueValue {
			e.Xattrs = maps.Clone(e.Xattrs)
			delete(e.Xattrs, opaqueName)
			if len(e.Xattrs) == 0 {
				e.Xattrs = nil
			}
		}
		shown[e.Path] = e
	}
	return slices.SortedFunc(maps.Values(shown), func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
}

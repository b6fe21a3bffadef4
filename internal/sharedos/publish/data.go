package publish

import (
	"context"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// keepData gives the release the previous one's version of the data directories that both have
// (rootfs.DataDirectories). A VM gets such a directory once, and no release replaces it later. Another version of it
// would only make each build differ and each delta larger. A directory that the previous release does not have makes
// the next layer a full one (writeDelta), so that no delta has any.
//
// The contents of what is kept are only in the layers of the previous release. So the tree can be compared
// and described, and a delta of it can be written, but no full layer: that has the data of this build.
func (b *building) keepData(ctx context.Context) error {
	directories, err := rootfs.DataDirectories(b.read.Tree)
	if err != nil || len(directories) == 0 {
		return err
	}
	b.data = directories
	list, err := b.previousContents(ctx)
	if err != nil || list == nil {
		return err
	}
	previous, err := readContents(list)
	if err != nil {
		return fmt.Errorf("read the contents list of release %s: %w", b.before.id, err)
	}
	var known []string
	for _, directory := range directories {
		if slices.ContainsFunc(previous,
			func(e tree.Entry) bool { return e.Type == tree.Regular && inside(e.Path, directory) }) {
			known = append(known, directory)
		} else {
			b.newData = append(b.newData, directory)
		}
	}
	b.tree, err = withData(b.read.Tree, previous, known)
	return err
}

// withData returns a tree with the directories as they are in previous.
func withData(t *tree.Tree, previous []tree.Entry, directories []string) (*tree.Tree, error) {
	if len(directories) == 0 {
		return t, nil
	}
	kept := func(e tree.Entry) bool { return inAny(e.Path, directories) }
	entries := slices.DeleteFunc(slices.Clone(t.Entries), kept)
	for _, e := range previous {
		if kept(e) {
			entries = append(entries, e)
		}
	}
	merged, err := tree.New(entries, t.Content)
	if err != nil {
		return nil, fmt.Errorf("keep the data directories of the previous release: %w", err)
	}
	return merged, nil
}

// inside reports whether a path is below a directory.
func inside(path, directory string) bool {
	return len(path) > len(directory) && path[len(directory)] == '/' && path[:len(directory)] == directory
}

// inAny reports whether a path is one of the directories, or below one.
func inAny(path string, directories []string) bool {
	return slices.ContainsFunc(directories,
		func(directory string) bool { return path == directory || inside(path, directory) })
}

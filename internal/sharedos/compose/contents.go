package compose

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// set is a set of components, by their indices.
type set uint32

func (s set) has(i int) bool { return s&(1<<i) != 0 }

// top is the component of the set that is laid over all others of it; -1 if the set is empty.
func (s set) top() int { return bits.Len32(uint32(s)) - 1 }

// merging merges contents lists: the base's, with what each component changed of it. What it yields is the tree that
// overlayfs shows of the layers, so it refuses the few changes that overlayfs would hide.
type merging struct {
	names []string
	out   *release.ContentsWriter
	// absent are paths that are a directory in some list and none in the merged one, with the component that decided
	// so.
	absent map[string]int
	// modified are directories of the base that components changed or removed.
	modified map[string]set
	// children are the components that kept an entry of the base, by the directory of the base that it is in.
	children map[string]set
	// replaced are the components that have a directory in the place of another kind of file of the base.
	replaced map[string]set
	// added are directories in, or below, which a path comes from components, with the lowest of their topmost ones.
	added map[string]addition
}

type addition struct {
	by   int
	path string
}

// mergeContents writes the contents list of the whole stack.
func (p Parts) mergeContents(lists Lists, w io.Writer) (release.Blob, error) {
	m := &merging{
		out: release.NewContentsWriter(w), absent: map[string]int{}, modified: map[string]set{},
		children: map[string]set{},
		replaced: map[string]set{}, added: map[string]addition{},
	}
	for _, component := range p.Components {
		m.names = append(m.names, component.Manifest.Name)
	}
	if err := p.visit(lists, m.path); err != nil {
		return release.Blob{}, err
	}
	if err := m.checkOpaque(); err != nil {
		return release.Blob{}, err
	}
	return m.out.Close()
}

// visit reads the lists of the base and the components side by side. It calls each for every path of any of them, in
// their order, with what the base has there and what each component has; nil for nothing.
func (p Parts) visit(lists Lists,
	each func(path string, base *tree.Entry, components []*tree.Entry) error) (err error) {
	var sides []*side
	for _, one := range append([]release.Identified{p.Base}, p.Components...) {
		list, openErr := lists(one)
		if openErr != nil {
			return fmt.Errorf("open the contents list of release %s: %w", one.ID, openErr)
		}
		defer func() { err = errors.Join(err, list.Close()) }()
		s := &side{id: one.ID, list: release.NewContentsReader(release.Verified(list, one.Manifest.Contents))}
		if err := s.advance(); err != nil {
			return err
		}
		sides = append(sides, s)
	}
	for {
		path, found := first(sides)
		if !found {
			return nil
		}
		entries := make([]*tree.Entry, len(sides))
		for i, s := range sides {
			if !s.ended && s.entry.Path == path {
				entries[i] = &s.entry
			}
		}
		if err := each(path, entries[0], entries[1:]); err != nil {
			return err
		}
		for i, s := range sides {
			if entries[i] != nil {
				if err := s.advance(); err != nil {
					return err
				}
			}
		}
	}
}

// side is one list and where it is.
type side struct {
	id    tree.Digest
	list  *release.ContentsReader
	entry tree.Entry
	ended bool
}

func (s *side) advance() (err error) {
	s.entry, err = s.list.Next()
	if errors.Is(err, io.EOF) && !errors.Is(err, release.ErrContents) {
		s.ended = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the contents list of release %s: %w", s.id, err)
	}
	return nil
}

// first is the path that comes next in any of the lists.
func first(sides []*side) (path string, found bool) {
	for _, s := range sides {
		if !s.ended && (!found || tree.Compare(s.entry.Path, path) < 0) {
			path, found = s.entry.Path, true
		}
	}
	return path, found
}

// path merges one path: what the base has there, and what each component has; nil for nothing.
func (m *merging) path(path string, base *tree.Entry, components []*tree.Entry) error {
	result, changed, err := m.decide(path, base, components)
	if err != nil {
		return err
	}
	directory := tree.Parent(path)
	if base != nil && path != tree.Root {
		kept := m.children[directory]
		for i, own := range components {
			if own != nil {
				kept |= 1 << i
			}
		}
		m.children[directory] = kept
	}
	if base != nil && base.Type != tree.Directory && result != nil && result.Type == tree.Directory {
		m.replaced[path] = changed
	}
	if err := m.checkDirectories(path, base, result, changed); err != nil {
		return err
	}
	if result == nil || result.Type != tree.Directory {
		for _, entry := range append(components, base) {
			if entry != nil && entry.Type == tree.Directory {
				m.absent[path] = changed.top() // nothing may be below
			}
		}
	}
	if result == nil {
		return nil
	}
	if remover, hidden := m.absent[directory]; hidden {
		return m.conflict(directory, remover, changed.top(), "no directory", "entries in it")
	}
	if changed != 0 {
		for at := directory; at != tree.Root; at = tree.Parent(at) {
			if known, has := m.added[at]; !has || changed.top() < known.by {
				m.added[at] = addition{changed.top(), path}
			}
		}
	}
	return m.out.Add(result)
}

// decide tells what is at the path in the stack, and which components changed it to that.
func (m *merging) decide(path string, base *tree.Entry,
	components []*tree.Entry) (result *tree.Entry, changed set, err error) {
	result = base
	for i, own := range components {
		if Same(base, own) {
			continue
		}
		if changed != 0 && !Same(result, own) {
			return nil, 0, m.conflict(path, changed.top(), i, EntryText(result), EntryText(own))
		}
		result = own
		changed |= 1 << i
	}
	return result, changed, nil
}

// Same reports whether two lists have the same at a path; nil stands for nothing.
func Same(a, b *tree.Entry) bool {
	if a == nil || b == nil {
		return a == b
	}
	return tree.Equal(*a, *b)
}

// checkDirectories refuses what overlayfs would not show of directories: it takes them from the topmost layer that has
// them. A layer has every directory above what it changes, as that was when the layer was made, and those of the top
// level.
func (m *merging) checkDirectories(path string, base, result *tree.Entry, changed set) error {
	if changed == 0 {
		return nil
	}
	if base != nil && base.Type == tree.Directory {
		if last := len(m.names) - 1; tree.Parent(path) == tree.Root && !changed.has(last) {
			return m.conflict(path, changed.top(), last, EntryText(result), EntryText(base))
		}
		m.modified[path] = changed
	}
	for at := path; at != tree.Root; {
		at = tree.Parent(at)
		if by, has := m.modified[at]; has && changed.top() > by.top() {
			return m.conflict(at, by.top(), changed.top(), "another directory than the base",
				"the base's directory, and changes "+shown(path))
		}
	}
	return nil
}

// checkOpaque refuses additions to directories that a component above hides. A layer hides whatever lies below it in a
// directory that took the place of another kind of file, or of which it has nothing that the base had (package layer,
// Delta).
func (m *merging) checkOpaque() error {
	for _, directory := range slices.Sorted(maps.Keys(m.added)) {
		addition := m.added[directory]
		kept, had := m.children[directory]
		had = had && tree.Parent(directory) != tree.Root
		for i := addition.by + 1; i < len(m.names); i++ {
			if had && !kept.has(i) || m.replaced[directory].has(i) {
				return m.conflict(addition.path, addition.by, i, "it", "its own "+shown(directory))
			}
		}
	}
	return nil
}

func (m *merging) conflict(path string, first, second int, firstMakes, secondMakes string) error {
	return &Conflict{
		What: shown(path), First: m.names[max(0, first)], Second: m.names[max(0, second)],
		FirstMakes: firstMakes, SecondMakes: secondMakes,
	}
}

// shown is a path as users write it.
func shown(path string) string { return "/" + strings.TrimPrefix(path, tree.Root) }

// EntryText says for a user what an entry is; nil is one that was removed.
func EntryText(e *tree.Entry) string {
	if e == nil {
		return "removed it"
	}
	switch e.Type {
	case tree.Directory:
		return fmt.Sprintf("a directory (mode %04o, owner %d:%d)", e.Mode, e.UID, e.GID)
	case tree.Regular:
		return fmt.Sprintf("a file of %d bytes (mode %04o, owner %d:%d, SHA-256 %.12s…)", e.Size, e.Mode,
			e.UID, e.GID, e.Digest.Hex())
	case tree.Symlink:
		return fmt.Sprintf("a link to %q", e.Link)
	default:
		return "a special file"
	}
}

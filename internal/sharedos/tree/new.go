package tree

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
)

// ErrInvalid means that entries do not form a tree.
var ErrInvalid = errors.New("not a valid tree")

// Root is the path of a tree's root.
const Root = "."

// The longest path, name and link target in bytes that Linux file systems hold (PATH_MAX with its final NUL,
// NAME_MAX).
const (
	MaxPath = 4095
	MaxName = 255
)

// Compare defines the order of paths in a tree: the root first, then by bytes. A directory comes before everything
// below it, but other paths may come in between: "a", "a-b", "a/b".
func Compare(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == Root:
		return -1
	case b == Root:
		return 1
	default:
		return strings.Compare(a, b)
	}
}

// Parent returns the path of the directory of p. The root is its own parent.
func Parent(p string) string { return path.Dir(p) }

// New sorts entries in place and verifies that they form a tree. The tree uses the slice. The error wraps ErrInvalid
// and names the first invalid path.
func New(entries []Entry, content Content) (*Tree, error) {
	slices.SortStableFunc(entries, func(a, b Entry) int { return Compare(a.Path, b.Path) })
	t := &Tree{Entries: entries, Content: content}
	if len(entries) == 0 || entries[0].Path != Root {
		return nil, fmt.Errorf("the root %q is missing: %w", Root, ErrInvalid)
	}
	for i := range entries {
		if err := check(&entries[i]); err != nil {
			return nil, fmt.Errorf("%q: %w: %w", entries[i].Path, err, ErrInvalid)
		}
		if i == 0 {
			continue
		}
		if entries[i].Path == entries[i-1].Path {
			return nil, fmt.Errorf("%q occurs twice: %w", entries[i].Path, ErrInvalid)
		}
		parent, ok := t.Lookup(Parent(entries[i].Path))
		if !ok {
			return nil, fmt.Errorf("%q has no parent directory: %w", entries[i].Path, ErrInvalid)
		}
		if parent.Type != Directory {
			return nil, fmt.Errorf("%q is below a %s: %w", entries[i].Path, parent.Type, ErrInvalid)
		}
	}
	return t, nil
}

// Lookup returns the entry of a path. It does not follow symbolic links.
func (t *Tree) Lookup(p string) (*Entry, bool) {
	i, ok := t.Index(p)
	if !ok {
		return nil, false
	}
	return &t.Entries[i], true
}

// Index returns the position of a path in Entries.
func (t *Tree) Index(p string) (int, bool) {
	return sort.Find(len(t.Entries), func(i int) int { return Compare(p, t.Entries[i].Path) })
}

// Equal reports whether all fields of a and b except ModTime and Inode are equal.
func Equal(a, b Entry) bool {
	return a.Path == b.Path && a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		a.Link == b.Link && a.Major == b.Major && a.Minor == b.Minor && a.Size == b.Size &&
		a.Digest == b.Digest && maps.Equal(a.Xattrs, b.Xattrs)
}

// CheckPath returns an error unless a path can be that of an entry: it must be relative and clean, stay inside the
// tree, and be no longer than Linux allows.
func CheckPath(p string) error {
	switch {
	case p == "":
		return errors.New("empty path")
	case len(p) > MaxPath:
		return fmt.Errorf("path of %d bytes, at most %d are possible", len(p), MaxPath)
	case strings.HasPrefix(p, "/"):
		return errors.New("absolute path")
	case strings.IndexByte(p, 0) >= 0:
		return errors.New("path with a NUL byte")
	case p == ".." || strings.HasPrefix(p, "../"):
		return errors.New("path outside of the tree")
	case p == Root:
		return nil
	}
	for more := true; more; {
		var name string
		name, p, more = strings.Cut(p, "/")
		switch {
		case name == "", name == ".", name == "..":
			return errors.New("path that is not clean")
		case len(name) > MaxName:
			return fmt.Errorf("name of %d bytes, at most %d are possible", len(name), MaxName)
		}
	}
	return nil
}

// check verifies an entry on its own.
func check(e *Entry) error {
	if err := CheckPath(e.Path); err != nil {
		return err
	}
	if e.Path == Root && e.Type != Directory {
		return fmt.Errorf("the root is a %s", e.Type)
	}
	if e.Mode&^0o7777 != 0 {
		return fmt.Errorf("mode %#o has more than permission bits", e.Mode)
	}
	if e.Type < Directory || e.Type > FIFO {
		return fmt.Errorf("unknown %s", e.Type)
	}
	if e.Type == Regular {
		if e.Size < 0 || e.Digest.IsZero() {
			return errors.New("regular file without size or digest")
		}
	} else if e.Size != 0 || !e.Digest.IsZero() {
		return fmt.Errorf("%s with content", e.Type)
	}
	if e.Type == Symlink {
		if e.Link == "" || len(e.Link) > MaxPath || strings.IndexByte(e.Link, 0) >= 0 {
			return errors.New("symbolic link without a valid target")
		}
	} else if e.Link != "" {
		return fmt.Errorf("%s with a link target", e.Type)
	}
	if e.Type != CharDevice && e.Type != BlockDevice && (e.Major != 0 || e.Minor != 0) {
		return fmt.Errorf("%s with a device number", e.Type)
	}
	for name := range e.Xattrs {
		if name == "" || len(name) > MaxName || strings.IndexByte(name, 0) >= 0 {
			return fmt.Errorf("extended attribute with the invalid name %q", name)
		}
	}
	return nil
}

package source

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The names that take away what lower layers have (image-spec, layer.md, "Whiteouts"): one file, or all that a
// directory holds. Other names with the longer prefix are AUFS's own records.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// merged is the tree that layers make which are laid over each other. It holds no contents: a layer is read once to
// find out what remains of it, and once more for the contents of that.
type merged struct {
	root              *node
	limits            Limits
	content, metadata int64
	entries           int
	// contents are, for each layer, the files whose content is in it.
	contents [][]content
}

// content is a file and the number of the entry, in its layer, that has its content.
type content struct {
	entry int
	file  *file
}

// node is a name in the tree. Hard links are names of one file.
type node struct {
	name     string
	parent   *node
	children map[string]*node
	file     *file
	// layer is the one that named it last.
	layer int
}

// file is what a name stands for. An image has hundreds of thousands: a tree.Entry would be three times as large.
type file struct {
	kind           tree.Type
	mode, uid, gid uint32
	// modified in seconds since 1970, and size in bytes.
	modified, size int64
	rare           *rare
	// first is the first name of a regular file in the merged tree.
	first *node
}

// rare is what few files have.
type rare struct {
	link         string
	xattrs       map[string]string
	major, minor uint32
	// others are the names of a regular file after the first.
	others []*node
}

// newFile keeps what an entry tells, but for its path: a file may have several names.
func newFile(e tree.Entry) *file {
	f := &file{kind: e.Type, mode: e.Mode, uid: e.UID, gid: e.GID, modified: e.ModTime.Unix(), size: e.Size}
	if e.Link != "" || len(e.Xattrs) > 0 || e.Major != 0 || e.Minor != 0 {
		f.rare = &rare{link: e.Link, xattrs: e.Xattrs, major: e.Major, minor: e.Minor}
	}
	return f
}

// entry is the file under one of its names.
func (f *file) entry(p string) tree.Entry {
	e := tree.Entry{
		Path: p, Type: f.kind, Mode: f.mode, UID: f.uid, GID: f.gid, ModTime: time.Unix(f.modified, 0), Size: f.size,
	}
	if f.rare != nil {
		e.Link, e.Xattrs, e.Major, e.Minor = f.rare.link, f.rare.xattrs, f.rare.major, f.rare.minor
	}
	return e
}

// addName notes a name of a regular file.
func (f *file) addName(n *node) {
	switch {
	case f.first == nil:
		f.first = n
	case f.rare == nil:
		f.rare = &rare{others: []*node{n}}
	default:
		f.rare.others = append(f.rare.others, n)
	}
}

// otherNames are the names after the first.
func (f *file) otherNames() []*node {
	if f.rare == nil {
		return nil
	}
	return f.rare.others
}

// path is where a name is in the tree.
func (n *node) path() string {
	if n.parent == n {
		return tree.Root
	}
	return path.Join(n.parent.path(), n.name)
}

func newMerged(limits Limits) *merged {
	root := &node{layer: -1, children: make(map[string]*node), file: impliedDirectory()}
	root.parent = root
	return &merged{root: root, limits: limits}
}

// impliedDirectory is a directory that no layer describes.
func impliedDirectory() *file {
	return newFile(tree.Entry{Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)})
}

// apply lays a layer over those before, and checks all of it against its digests.
func (m *merged) apply(ctx context.Context, number int, layer ociLayer, stored *os.File, tell func(int64)) error {
	m.contents = append(m.contents, nil)
	packed, plain := newHash(), newHash()
	n := int64(0)
	in := &noted{io.TeeReader(io.NewSectionReader(stored, 0, layer.size+1), packed), func(read int) { n += int64(read); tell(int64(read)) }}
	unpacked, done, err := unpack(bufio.NewReaderSize(in, 1<<20))
	if errors.Is(err, ErrRefused) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer done()
	// The limits are those of all layers together.
	scan := newTarScanner(ctx, io.TeeReader(unpacked, plain), m.limits)
	scan.content, scan.metadata = m.content, m.metadata
	for count := 0; ; count++ {
		header, err := scan.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := m.add(scan, number, count, header); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
	m.content, m.metadata = scan.content, scan.metadata
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if got := sumOf(packed); got != layer.digest || n != layer.size {
		return fmt.Errorf("%d bytes of the digest %s, not %d: %w", n, got, layer.size, ErrCorrupt)
	}
	if got := sumOf(plain); got != layer.diff {
		return fmt.Errorf("its tar stream has the digest %s, and the image says %s: %w", got, layer.diff, ErrCorrupt)
	}
	return nil
}

// add lays one entry of a layer over what is there.
func (m *merged) add(scan *tarScanner, layer, count int, header *tar.Header) error {
	p, err := entryPath(header.Name, header.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	if base := path.Base(p); p != tree.Root && strings.HasPrefix(base, whiteoutPrefix) {
		return m.whiteout(layer, p, base)
	}
	e, err := newEntry(p, header)
	if err != nil {
		return err
	}
	if err := scan.addMetadata(e); err != nil {
		return err
	}
	f := newFile(e)
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := scan.addContent(header.Size); err != nil {
			return err
		}
		f.size = header.Size
		m.contents[layer] = append(m.contents[layer], content{count, f})
	case tar.TypeLink:
		target, err := entryPath(header.Linkname, false)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", header.Linkname, err)
		}
		to, err := m.lookup(target)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", header.Linkname, err)
		}
		if to == nil {
			return fmt.Errorf("hard link to %q, which is neither in the layer before it nor below: %w", header.Linkname, ErrRefused)
		}
		if to.file.kind == tree.Directory {
			return fmt.Errorf("hard link to the directory %q: %w", header.Linkname, ErrRefused)
		}
		f = to.file
	}
	if p == tree.Root {
		m.root.file, m.root.layer = f, layer
		return nil
	}
	dir, err := m.directory(layer, tree.Parent(p))
	if err != nil {
		return err
	}
	// A name alone does not keep the path that it is cut from.
	return m.put(dir, strings.Clone(path.Base(p)), layer, f)
}

// put gives a name to a file, in place of what a lower layer has there.
func (m *merged) put(dir *node, name string, layer int, f *file) error {
	was, ok := dir.children[name]
	switch {
	case !ok:
		return m.grow(dir, name, layer, f)
	case was.file.kind == tree.Directory && f.kind == tree.Directory:
		was.file, was.layer = f, layer
	case was.layer == layer && was.file.kind != f.kind:
		return fmt.Errorf("is a %s, and was a %s earlier in the layer: %w", f.kind, was.file.kind, ErrRefused)
	default:
		m.entries -= was.count() - 1
		*was = node{name: name, parent: dir, file: f, layer: layer}
		if f.kind == tree.Directory {
			was.children = make(map[string]*node)
		}
	}
	return nil
}

// grow adds a name that is not there.
func (m *merged) grow(dir *node, name string, layer int, f *file) error {
	if m.entries++; m.entries > m.limits.Entries {
		return fmt.Errorf("more than %d entries: %w", m.limits.Entries, ErrLimit)
	}
	n := &node{name: name, parent: dir, file: f, layer: layer}
	if f.kind == tree.Directory {
		n.children = make(map[string]*node)
	}
	dir.children[name] = n
	return nil
}

// count is how many names a node is and has below.
func (n *node) count() int {
	all := 1
	for _, child := range n.children {
		all += child.count()
	}
	return all
}

// whiteout takes away what lower layers have. What the layer itself has stays, wherever in it the whiteout stands.
func (m *merged) whiteout(layer int, p, base string) error {
	dir, err := m.lookup(tree.Parent(p))
	if err != nil {
		return err
	}
	switch name := strings.TrimPrefix(base, whiteoutPrefix); {
	case base == whiteoutOpaque:
		if dir == nil || dir.file.kind != tree.Directory {
			return nil
		}
		for _, name := range slices.Collect(maps.Keys(dir.children)) {
			m.remove(dir, name, layer)
		}
	case strings.HasPrefix(base, aufsPrefix):
	case name == "" || name == "." || name == "..":
		return fmt.Errorf("whiteout of no name: %w", ErrRefused)
	case dir != nil && dir.children[name] != nil:
		m.remove(dir, name, layer)
	}
	return nil
}

// remove takes away a name and all below it, but for what the layer itself has.
func (m *merged) remove(dir *node, name string, layer int) {
	n := dir.children[name]
	for _, child := range slices.Collect(maps.Keys(n.children)) {
		m.remove(n, child, layer)
	}
	switch {
	case n.layer == layer:
	case len(n.children) > 0:
		// The layer has something in it without describing it.
		n.file, n.layer = impliedDirectory(), layer
	default:
		delete(dir.children, name)
		m.entries--
	}
}

// directory finds the directory of a path, following symbolic links inside of the tree, and makes what is missing.
func (m *merged) directory(layer int, p string) (*node, error) {
	return m.follow(p, func(at *node, name string) (*node, error) {
		if err := m.grow(at, strings.Clone(name), layer, impliedDirectory()); err != nil {
			return nil, err
		}
		return at.children[name], nil
	})
}

// lookup finds the name of a path, following symbolic links but for the last; nil if there is none.
func (m *merged) lookup(p string) (*node, error) {
	if p == tree.Root {
		return m.root, nil
	}
	nowhere := func(*node, string) (*node, error) { return nil, nil }
	dir, err := m.follow(tree.Parent(p), nowhere)
	if err != nil || dir == nil {
		return nil, err
	}
	return dir.children[path.Base(p)], nil
}

// follow walks a path of directories as a process would whose root the tree is. What missing returns for a name that is
// not there is taken for it; nil ends the walk.
func (m *merged) follow(p string, missing func(at *node, name string) (*node, error)) (*node, error) {
	at, rest := m.root, p
	for links := 0; rest != ""; {
		var step string
		step, rest, _ = strings.Cut(rest, "/")
		switch step {
		case "", ".":
			continue
		case "..":
			at = at.parent
			continue
		}
		next := at.children[step]
		if next == nil {
			var err error
			if next, err = missing(at, step); err != nil || next == nil {
				return nil, err
			}
		}
		switch next.file.kind {
		case tree.Directory:
			at = next
		case tree.Symlink:
			link := next.file.entry(p).Link
			if links++; links > maxSymlinks || len(link)+len(rest) > 2*tree.MaxPath {
				return nil, fmt.Errorf("%q goes through too many symbolic links: %w", p, ErrRefused)
			}
			if strings.HasPrefix(link, "/") {
				at = m.root
			}
			rest = link + "/" + rest
		default:
			return nil, fmt.Errorf("%q is below a %s: %w", p, next.file.kind, ErrRefused)
		}
	}
	return at, nil
}

// maxSymlinks is how many symbolic links Linux follows in one path (path_resolution(7)).
const maxSymlinks = 40

// writeOthers writes all that has no content, each directory before what it holds, and notes the names of the rest.
func (m *merged) writeOthers(out *tar.Writer) error {
	var write func(n *node, p string) error
	write = func(n *node, p string) error {
		if n.file.kind == tree.Regular {
			n.file.addName(n)
			return nil
		}
		if err := out.WriteHeader(tarHeader(n.file.entry(p))); err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		children := n.children
		n.children = nil // from here on a file keeps its parents, and no directory its files: they go as they are written
		for _, name := range slices.Sorted(maps.Keys(children)) {
			if err := write(children[name], path.Join(p, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return write(m.root, tree.Root)
}

// writeContents writes what remains of the regular files of a layer.
func (m *merged) writeContents(ctx context.Context, number int, stored *os.File, tell func(int64), out *tar.Writer) error {
	contents := slices.DeleteFunc(m.contents[number], func(c content) bool { return c.file.first == nil })
	m.contents[number] = nil
	in := &noted{io.NewSectionReader(stored, 0, 1<<62), func(read int) { tell(int64(read)) }}
	unpacked, done, err := unpack(bufio.NewReaderSize(in, 1<<20))
	if err != nil {
		return err
	}
	defer done()
	scan := newTarScanner(ctx, unpacked, m.limits)
	buffer := make([]byte, copyBuffer)
	for count := 0; len(contents) > 0; count++ {
		header, err := scan.next()
		if err != nil {
			return fmt.Errorf("%w: %w", errChanged, err)
		}
		if contents[0].entry != count {
			continue
		}
		f := contents[0].file
		contents[0].file, contents = nil, contents[1:]
		if header.Size != f.size {
			return errChanged
		}
		e := f.entry(f.first.path())
		if err := out.WriteHeader(tarHeader(e)); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		if _, err := io.CopyBuffer(out, scan.tar, buffer); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		for _, other := range f.otherNames() {
			if err := out.WriteHeader(hardLink(other.path(), e.Path)); err != nil {
				return fmt.Errorf("%q: %w", other.path(), err)
			}
		}
	}
	return nil
}

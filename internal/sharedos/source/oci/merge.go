package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Names of entries that remove what lower layers have (image-spec, layer.md, "Whiteouts"): one file, or the whole
// content of a directory. Other names with the longer prefix are AUFS's own records.
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh."
)

// merged is the tree that results from applying layers. It holds no contents: each layer is read once to find out which
// of its files remain, and once more for their contents.
type merged struct {
	root    *node
	limits  source.Limits
	usage   tarstream.Usage
	entries int
	// contents lists, for each layer, the files whose content is in it.
	contents [][]content
}

// content is a file, with the number of the entry in its layer that has its content.
type content struct {
	entry int
	file  *file
}

// node is a name in the tree. Hard links are several names of one file.
type node struct {
	name     string
	parent   *node
	children map[string]*node
	file     *file
	// layer is the last layer that had this name.
	layer int
}

// file is a file with one or more names. An image has hundreds of thousands of them; a tree.Entry is three times as
// large.
type file struct {
	kind           tree.Type
	mode, uid, gid uint32
	// modified is in seconds since 1970, and size in bytes.
	modified, size int64
	rare           *rare
	// first is the first name of a regular file in the merged tree.
	first *node
}

// rare holds fields that few files need.
type rare struct {
	link         string
	xattrs       map[string]string
	major, minor uint32
	// others are the names of a regular file after the first.
	others []*node
}

// newFile returns the file of an entry, without its path: it may have several names.
func newFile(e tree.Entry) *file {
	f := &file{kind: e.Type, mode: e.Mode, uid: e.UID, gid: e.GID, modified: e.ModTime.Unix(), size: e.Size}
	if e.Link != "" || len(e.Xattrs) > 0 || e.Major != 0 || e.Minor != 0 {
		f.rare = &rare{link: e.Link, xattrs: e.Xattrs, major: e.Major, minor: e.Minor}
	}
	return f
}

// entry returns the file's entry at one of its paths.
func (f *file) entry(p string) tree.Entry {
	e := tree.Entry{
		Path: p, Type: f.kind, Mode: f.mode, UID: f.uid, GID: f.gid, ModTime: time.Unix(f.modified, 0), Size: f.size,
	}
	if f.rare != nil {
		e.Link, e.Xattrs, e.Major, e.Minor = f.rare.link, f.rare.xattrs, f.rare.major, f.rare.minor
	}
	return e
}

// addName records a name of a regular file.
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

// otherNames returns the names after the first.
func (f *file) otherNames() []*node {
	if f.rare == nil {
		return nil
	}
	return f.rare.others
}

func (n *node) path() string {
	if n.parent == n {
		return tree.Root
	}
	return path.Join(n.parent.path(), n.name)
}

func newMerged(limits source.Limits) *merged {
	root := &node{layer: -1, children: make(map[string]*node), file: impliedDirectory()}
	root.parent = root
	return &merged{root: root, limits: limits}
}

// impliedDirectory returns a directory that no layer describes.
func impliedDirectory() *file {
	return newFile(tree.Entry{Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)})
}

// apply applies a layer on top of those before, and verifies its digests.
func (m *merged) apply(ctx context.Context, number int, layer layer, stored *os.File, progress func(int64)) error {
	m.contents = append(m.contents, nil)
	compressed, plain := sha256.New(), sha256.New()
	size := int64(0)
	in := &fetch.ReadNotifier{
		Reader: io.TeeReader(io.NewSectionReader(stored, 0, layer.size+1), compressed),
		OnRead: func(n int64) { size += n; progress(n) },
	}
	stream, free, err := tarstream.Decompress(in)
	if errors.Is(err, source.ErrRefused) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %w", source.ErrCorrupt, err)
	}
	defer free()
	// The limits apply to all layers together.
	scan := tarstream.NewScanner(ctx, io.TeeReader(stream, plain), m.limits, m.usage)
	for count := 0; ; count++ {
		header, err := scan.Next()
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
	m.usage = scan.Usage()
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if got := tree.Digest(compressed.Sum(nil)); got != layer.digest && !layer.saved || size != layer.size {
		return fmt.Errorf("%d bytes with the digest %s, not %d: %w", size, got, layer.size, source.ErrCorrupt)
	}
	if got := tree.Digest(plain.Sum(nil)); got != layer.diffID {
		return fmt.Errorf("its tar stream has the digest %s, and the image says %s: %w", got,
			layer.diffID, source.ErrCorrupt)
	}
	return nil
}

// add applies one entry of a layer.
func (m *merged) add(scan *tarstream.Scanner, layer, count int, header *tar.Header) error {
	p, err := tarstream.Path(header)
	if err != nil {
		return err
	}
	if base := path.Base(p); p != tree.Root && strings.HasPrefix(base, whiteoutPrefix) {
		return m.whiteout(layer, p, base)
	}
	e, err := tarstream.Entry(header)
	if err != nil {
		return err
	}
	if err := scan.AddMetadata(e); err != nil {
		return err
	}
	f := newFile(e)
	switch {
	case header.Typeflag == tar.TypeLink:
		if f, err = m.linked(header.Linkname); err != nil {
			return err
		}
	case e.Type == tree.Regular:
		if err := scan.AddContent(e.Size); err != nil {
			return err
		}
		m.contents[layer] = append(m.contents[layer], content{count, f})
	}
	if p == tree.Root {
		m.root.file, m.root.layer = f, layer
		return nil
	}
	dir, err := m.directory(layer, tree.Parent(p))
	if err != nil {
		return err
	}
	// A clone, since a substring keeps the whole path in memory.
	return m.put(dir, strings.Clone(path.Base(p)), layer, f)
}

// linked returns the file that a hard link refers to.
func (m *merged) linked(name string) (*file, error) {
	target, err := tarstream.LinkTarget(name)
	if err != nil {
		return nil, err
	}
	to, err := m.lookup(target)
	switch {
	case err != nil:
		return nil, fmt.Errorf("hard link to %q: %w", name, err)
	case to == nil:
		return nil, fmt.Errorf("hard link to %q, which is neither in the layer before it nor below: %w", name,
			source.ErrRefused)
	case to.file.kind == tree.Directory:
		return nil, fmt.Errorf("hard link to the directory %q: %w", name, source.ErrRefused)
	default:
		return to.file, nil
	}
}

// put gives a file a name, and replaces what a lower layer, or an earlier entry of the layer, has there.
func (m *merged) put(dir *node, name string, layer int, f *file) error {
	old, ok := dir.children[name]
	switch {
	case !ok:
		return m.insert(dir, name, layer, f)
	case old.file.kind == tree.Directory && f.kind == tree.Directory:
		old.file, old.layer = f, layer
	default:
		m.entries -= old.count() - 1
		*old = node{name: name, parent: dir, file: f, layer: layer}
		if f.kind == tree.Directory {
			old.children = make(map[string]*node)
		}
	}
	return nil
}

// insert adds a new name.
func (m *merged) insert(dir *node, name string, layer int, f *file) error {
	if m.entries++; m.entries > m.limits.Entries {
		return fmt.Errorf("more than %d entries: %w", m.limits.Entries, source.ErrLimit)
	}
	n := &node{name: name, parent: dir, file: f, layer: layer}
	if f.kind == tree.Directory {
		n.children = make(map[string]*node)
	}
	dir.children[name] = n
	return nil
}

// count returns the number of names from a node on downwards.
func (n *node) count() int {
	all := 1
	for _, child := range n.children {
		all += child.count()
	}
	return all
}

// whiteout removes what lower layers have. Entries of the same layer stay, whether they come before or after it.
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
		return fmt.Errorf("whiteout without a name: %w", source.ErrRefused)
	case dir != nil && dir.children[name] != nil:
		m.remove(dir, name, layer)
	}
	return nil
}

// remove removes a name and everything below it, except for what the layer itself has.
func (m *merged) remove(dir *node, name string, layer int) {
	n := dir.children[name]
	for _, child := range slices.Collect(maps.Keys(n.children)) {
		m.remove(n, child, layer)
	}
	switch {
	case n.layer == layer:
	case len(n.children) > 0:
		// The layer has something in it but does not describe the directory itself.
		n.file, n.layer = impliedDirectory(), layer
	default:
		delete(dir.children, name)
		m.entries--
	}
}

// directory returns the directory of a path. It follows symbolic links inside the tree and adds missing directories.
func (m *merged) directory(layer int, p string) (*node, error) {
	return m.follow(p, func(at *node, name string) (*node, error) {
		if err := m.insert(at, strings.Clone(name), layer, impliedDirectory()); err != nil {
			return nil, err
		}
		return at.children[name], nil
	})
}

// lookup returns the name at a path; nil if there is none. It follows symbolic links except for the last component.
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

// follow walks along a path of directories, as a process would whose root is the tree. For a missing name it calls
// missing and continues with the result; nil ends the walk.
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
			link := next.file.rare.link
			if links++; links > tree.MaxLinks || len(link)+len(rest) > 2*tree.MaxPath {
				return nil, fmt.Errorf("%q goes through too many symbolic links: %w", p, source.ErrRefused)
			}
			if strings.HasPrefix(link, "/") {
				at = m.root
			}
			rest = link + "/" + rest
		default:
			return nil, fmt.Errorf("%q is below a %s: %w", p, next.file.kind, source.ErrRefused)
		}
	}
	return at, nil
}

// writeOthers writes everything that has no content, each directory before its children. It records the names of the
// regular files.
func (m *merged) writeOthers(out *tar.Writer) error {
	var write func(n *node, p string) error
	write = func(n *node, p string) error {
		if n.file.kind == tree.Regular {
			n.file.addName(n)
			return nil
		}
		if err := out.WriteHeader(tarstream.Header(n.file.entry(p))); err != nil {
			return fmt.Errorf("%q: %w", p, err)
		}
		children := n.children
		// From here on files refer to their directories, and directories no longer to their files. So the memory of a
		// file is freed as soon as it is written.
		n.children = nil
		for _, name := range slices.Sorted(maps.Keys(children)) {
			if err := write(children[name], path.Join(p, name)); err != nil {
				return err
			}
		}
		return nil
	}
	return write(m.root, tree.Root)
}

// writeContents writes those regular files of a layer that remain in the merged tree.
func (m *merged) writeContents(ctx context.Context, number int, stored *os.File,
	progress func(int64), out *tar.Writer) error {
	contents := slices.DeleteFunc(m.contents[number], func(c content) bool { return c.file.first == nil })
	m.contents[number] = nil
	stream, free, err := tarstream.Decompress(&fetch.ReadNotifier{Reader: io.NewSectionReader(stored, 0, 1<<62),
		OnRead: progress})
	if err != nil {
		return err
	}
	defer free()
	scan := tarstream.NewScanner(ctx, stream, m.limits, tarstream.Usage{})
	buffer := make([]byte, tarstream.CopyBuffer)
	for count := 0; len(contents) > 0; count++ {
		header, err := scan.Next()
		if err != nil {
			return fmt.Errorf("%w: %w", source.ErrChanged, err)
		}
		if contents[0].entry != count {
			continue
		}
		f := contents[0].file
		contents[0].file, contents = nil, contents[1:]
		if header.Size != f.size {
			return source.ErrChanged
		}
		e := f.entry(f.first.path())
		if err := out.WriteHeader(tarstream.Header(e)); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		if _, err := io.CopyBuffer(out, scan, buffer); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		for _, other := range f.otherNames() {
			if err := out.WriteHeader(tarstream.HardLink(other.path(), e.Path)); err != nil {
				return fmt.Errorf("%q: %w", other.path(), err)
			}
		}
	}
	return nil
}

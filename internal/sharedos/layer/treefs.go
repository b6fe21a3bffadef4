package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// treeFS shows a tree to go-erofs as an fs.FS. Its files carry their metadata as *erofs.Stat and open their
// content only when it is read, so that a tree of any size needs one open content at a time.
type treeFS struct {
	ctx      context.Context
	content  tree.Content
	byPath   map[string]*node
	children map[string][]*node
}

// node is one entry as fs.FileInfo and fs.DirEntry.
type node struct {
	entry *tree.Entry
	// xattrs by the names that go-erofs expects.
	xattrs map[string]string
	// links is the number of hard links: 1, or for a directory 2 and one for each directory in it.
	links int
}

func newTreeFS(ctx context.Context, t *tree.Tree) (*treeFS, error) {
	f := &treeFS{
		ctx: ctx, content: t.Content,
		byPath:   make(map[string]*node, len(t.Entries)),
		children: make(map[string][]*node),
	}
	for i := range t.Entries {
		e := &t.Entries[i]
		xattrs, err := erofsXattrs(e)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		n := &node{entry: e, xattrs: xattrs, links: 1}
		f.byPath[e.Path] = n
		if e.Type == tree.Directory {
			n.links = 2
		}
		if e.Path == tree.Root {
			continue
		}
		parent := tree.Parent(e.Path)
		f.children[parent] = append(f.children[parent], n)
		if above := f.byPath[parent]; above == nil {
			return nil, fmt.Errorf("%q has no parent directory: %w", e.Path, tree.ErrInvalid)
		} else if e.Type == tree.Directory {
			above.links++
		}
	}
	if f.byPath[tree.Root] == nil {
		return nil, fmt.Errorf("the root is missing: %w", tree.ErrInvalid)
	}
	return f, nil
}

func (f *treeFS) lookup(operation, name string) (*node, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	n, ok := f.byPath[name]
	if !ok {
		return nil, &fs.PathError{Op: operation, Path: name, Err: fs.ErrNotExist}
	}
	return n, nil
}

// Stat implements fs.StatFS.
func (f *treeFS) Stat(name string) (fs.FileInfo, error) { return f.lookup("stat", name) }

// ReadDir implements fs.ReadDirFS. A tree's order is the order of names within one directory.
func (f *treeFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if _, err := f.lookup("readdir", name); err != nil {
		return nil, err
	}
	children := make([]fs.DirEntry, len(f.children[name]))
	for i, child := range f.children[name] {
		children[i] = child
	}
	return children, nil
}

// ReadLink implements what go-erofs asks for symbolic links.
func (f *treeFS) ReadLink(name string) (string, error) {
	n, err := f.lookup("readlink", name)
	if err != nil {
		return "", err
	}
	return n.entry.Link, nil
}

// Open implements fs.FS. It opens no content yet: go-erofs opens all files before it reads the first.
func (f *treeFS) Open(name string) (fs.File, error) {
	n, err := f.lookup("open", name)
	if err != nil {
		return nil, err
	}
	return &contentFile{node: n, fs: f}, nil
}

func (n *node) Name() string               { return path.Base(n.entry.Path) }
func (n *node) Size() int64                { return n.entry.Size }
func (n *node) ModTime() time.Time         { return n.entry.ModTime }
func (n *node) IsDir() bool                { return n.entry.Type == tree.Directory }
func (n *node) Type() fs.FileMode          { return n.Mode().Type() }
func (n *node) Info() (fs.FileInfo, error) { return n, nil }

func (n *node) Mode() fs.FileMode {
	mode := fs.FileMode(n.entry.Mode & 0o777)
	for bit, goBit := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n.entry.Mode&bit != 0 {
			mode |= goBit
		}
	}
	switch n.entry.Type {
	case tree.Directory:
		mode |= fs.ModeDir
	case tree.Symlink:
		mode |= fs.ModeSymlink
	case tree.CharDevice:
		mode |= fs.ModeDevice | fs.ModeCharDevice
	case tree.BlockDevice:
		mode |= fs.ModeDevice
	case tree.FIFO:
		mode |= fs.ModeNamedPipe
	}
	return mode
}

// Sys carries what fs.FileInfo cannot to go-erofs.
func (n *node) Sys() any {
	stat := &erofs.Stat{UID: n.entry.UID, GID: n.entry.GID, Nlink: n.links, Xattrs: n.xattrs}
	if seconds := n.entry.ModTime.Unix(); seconds > 0 { // an unset time and one before 1970 are 1970
		stat.Mtime = uint64(seconds)
	}
	if n.entry.Type == tree.CharDevice || n.entry.Type == tree.BlockDevice {
		stat.Rdev = uint32(unix.Mkdev(n.entry.Major, n.entry.Minor))
	}
	return stat
}

// contentFile reads the content of one regular file and fails unless it is exactly what the entry says: a wrong
// length would shift all that follows it in the image.
type contentFile struct {
	node *node
	fs   *treeFS
	from io.ReadCloser
	sum  hash.Hash
	left int64
}

func (c *contentFile) Stat() (fs.FileInfo, error) { return c.node, nil }

func (c *contentFile) Read(p []byte) (int, error) {
	if err := c.fs.ctx.Err(); err != nil {
		return 0, err
	}
	e := c.node.entry
	if c.from == nil {
		from, err := c.fs.content.Open(e.Digest)
		if err != nil {
			return 0, fmt.Errorf("open content of %q: %w", e.Path, err)
		}
		c.from, c.sum, c.left = from, sha256.New(), e.Size
	}
	if c.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.from.Read(p)
	c.sum.Write(p[:n])
	c.left -= int64(n)
	if c.left == 0 {
		// The caller reads no further, so this is the place to check.
		if !bytes.Equal(c.sum.Sum(nil), e.Digest[:]) {
			return n, fmt.Errorf("content of %q is not %s", e.Path, e.Digest)
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		return n, fmt.Errorf("content of %q ends %d bytes early: %w", e.Path, c.left, io.ErrUnexpectedEOF)
	}
	return n, err
}

func (c *contentFile) Close() error {
	if c.from == nil {
		return nil
	}
	return c.from.Close()
}

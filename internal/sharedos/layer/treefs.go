package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"path"
	"sync"
	"time"

	"github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// treeFS shows a tree to go-erofs as an fs.FS. Its files carry their metadata as *erofs.Stat and open their
// content only when it is read, so that a tree of any size needs one open content at a time. go-erofs keeps about a
// kilobyte for each entry, so what this keeps is small.
type treeFS struct {
	ctx  context.Context
	tree *tree.Tree
	// children of each directory, as indices of entries, in order.
	children map[string][]int32
	// xattrs of the few entries that have some, by the names that go-erofs expects.
	xattrs map[string]map[string]string
	// sums are hashes to be used again: one for each file would be most of what is allocated.
	sums sync.Pool
}

// node is one entry as fs.FileInfo and fs.DirEntry.
type node struct {
	fs    *treeFS
	entry *tree.Entry
}

// newTreeFS checks that go-erofs can hold every entry.
func newTreeFS(ctx context.Context, t *tree.Tree) (*treeFS, error) {
	f := &treeFS{ctx: ctx, tree: t, children: make(map[string][]int32), xattrs: make(map[string]map[string]string)}
	if len(t.Entries) == 0 || t.Entries[0].Path != tree.Root {
		return nil, fmt.Errorf("the root is missing: %w", tree.ErrInvalid)
	}
	if len(t.Entries) > math.MaxInt32 {
		return nil, fmt.Errorf("%d entries, more than %d: %w", len(t.Entries), math.MaxInt32, tree.ErrInvalid)
	}
	for i := range t.Entries {
		e := &t.Entries[i]
		if len(e.Xattrs) > 0 {
			xattrs, err := erofsXattrs(e)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", e.Path, err)
			}
			f.xattrs[e.Path] = xattrs
		}
		if i == 0 {
			continue
		}
		parent := tree.Parent(e.Path)
		if above, ok := t.Lookup(parent); !ok || above.Type != tree.Directory {
			return nil, fmt.Errorf("%q has no parent directory: %w", e.Path, tree.ErrInvalid)
		}
		f.children[parent] = append(f.children[parent], int32(i))
	}
	return f, nil
}

func (f *treeFS) lookup(operation, name string) (*node, error) {
	if err := f.ctx.Err(); err != nil {
		return nil, err
	}
	e, ok := f.tree.Lookup(name)
	if !ok {
		return nil, &fs.PathError{Op: operation, Path: name, Err: fs.ErrNotExist}
	}
	return &node{f, e}, nil
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
		children[i] = &node{f, &f.tree.Entries[child]}
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
	return &contentFile{node: *n}, nil
}

// links returns the number of hard links: 1, or for a directory 2 and one for each directory in it.
func (n *node) links() int {
	if n.entry.Type != tree.Directory {
		return 1
	}
	links := 2
	for _, child := range n.fs.children[n.entry.Path] {
		if n.fs.tree.Entries[child].Type == tree.Directory {
			links++
		}
	}
	return links
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
	stat := &erofs.Stat{UID: n.entry.UID, GID: n.entry.GID, Nlink: n.links(), Xattrs: n.fs.xattrs[n.entry.Path]}
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
	node
	open *openContent // nil before the first Read and after Close
}

type openContent struct {
	from io.ReadCloser
	sum  hash.Hash
	left int64
}

// Stat implements fs.File.
func (c *contentFile) Stat() (fs.FileInfo, error) { return &c.node, nil }

// Read implements fs.File.
func (c *contentFile) Read(p []byte) (int, error) {
	if err := c.fs.ctx.Err(); err != nil {
		return 0, err
	}
	e := c.entry
	if c.open == nil {
		from, err := c.fs.tree.Content.Open(e.Digest)
		if err != nil {
			return 0, fmt.Errorf("open content of %q: %w", e.Path, err)
		}
		sum, ok := c.fs.sums.Get().(hash.Hash)
		if !ok {
			sum = sha256.New()
		}
		sum.Reset()
		c.open = &openContent{from: from, sum: sum, left: e.Size}
	}
	o := c.open
	if o.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > o.left {
		p = p[:o.left]
	}
	n, err := o.from.Read(p)
	o.sum.Write(p[:n])
	o.left -= int64(n)
	if o.left == 0 {
		// The caller reads no further, so this is the place to check.
		var got tree.Digest
		if o.sum.Sum(got[:0]); got != e.Digest {
			return n, fmt.Errorf("content of %q is not %s", e.Path, e.Digest)
		}
		return n, nil
	}
	if errors.Is(err, io.EOF) {
		return n, fmt.Errorf("content of %q ends %d bytes early: %w", e.Path, o.left, io.ErrUnexpectedEOF)
	}
	return n, err
}

// Close implements fs.File.
func (c *contentFile) Close() error {
	if c.open == nil {
		return nil
	}
	from := c.open.from
	c.fs.sums.Put(c.open.sum)
	c.open = nil
	return from.Close()
}

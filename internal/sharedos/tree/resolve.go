package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
)

// MaxLinks is how many symbolic links Linux follows in one path (path_resolution(7)).
const MaxLinks = 40

// ErrLoop means that a path goes through more symbolic links than Linux follows.
var ErrLoop = errors.New("too many symbolic links")

// Resolve returns the entry at a path, as a process would find it whose root is this tree: it follows symbolic links,
// absolute ones from the tree's root, and ".." never leaves the tree. The path may start with "/". The error is
// fs.ErrNotExist if there is no such entry.
func (t *Tree) Resolve(name string) (*Entry, error) {
	at := Root
	rest := name
	for links := 0; rest != ""; {
		var step string
		step, rest, _ = strings.Cut(rest, "/")
		switch step {
		case "", ".":
			continue
		case "..":
			at = Parent(at)
			continue
		}
		next := path.Join(at, step)
		e, ok := t.Lookup(next)
		if !ok {
			return nil, fmt.Errorf("%s: %s: %w", name, next, fs.ErrNotExist)
		}
		if e.Type != Symlink {
			at = next
			continue
		}
		if links++; links > MaxLinks {
			return nil, fmt.Errorf("%s: %w", name, ErrLoop)
		}
		if strings.HasPrefix(e.Link, "/") {
			at = Root
		}
		if len(e.Link)+len(rest) > 2*MaxPath {
			return nil, fmt.Errorf("%s: %s: path too long", name, next)
		}
		rest = e.Link + "/" + rest
	}
	e, ok := t.Lookup(at)
	if !ok {
		return nil, fmt.Errorf("%s: %s: %w", name, at, fs.ErrNotExist)
	}
	return e, nil
}

// OpenFile opens the regular file at a path, which it resolves like Resolve.
func (t *Tree) OpenFile(name string) (io.ReadCloser, *Entry, error) {
	e, err := t.Resolve(name)
	if err != nil {
		return nil, nil, err
	}
	if e.Type != Regular {
		return nil, nil, fmt.Errorf("%s: is a %s, not a regular file", name, e.Type)
	}
	r, err := t.Content.Open(e.Digest)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: open content: %w", name, err)
	}
	return r, e, nil
}

// ErrTooLarge means that a file is larger than its reader allows.
var ErrTooLarge = errors.New("file too large")

// ReadFile returns the content of the regular file at a path, which it resolves like Resolve. The error is ErrTooLarge
// if the file has more than limit bytes.
func (t *Tree) ReadFile(name string, limit int64) (_ []byte, err error) {
	r, e, err := t.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if e.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes, at most %d are read: %w", name, e.Size, limit, ErrTooLarge)
	}
	data, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) != e.Size {
		return nil, fmt.Errorf("read %s: %d bytes where %d were recorded", name, len(data), e.Size)
	}
	return data, nil
}

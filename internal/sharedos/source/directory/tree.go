package directory

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Tree is a directory to be written as a tar stream, as Source describes.
type Tree struct {
	Root *os.File
	// Path is that of the root in the tree.
	Path   string
	Owners Owners
	// Special allows devices and named pipes; otherwise they are refused.
	Special bool
	// Skip selects further directories whose content is left out, by paths in the tree; nil selects none.
	Skip func(p string) bool
	// Omit selects files and directories that are left out; nil selects none.
	Omit func(p string) bool
	// Read is called with the number of bytes that were read.
	Read func(more int64)
}

// neverShared reports whether the content of a directory belongs to a running machine only.
func neverShared(p string) bool {
	return slices.Contains([]string{"dev", "proc", "sys", "run", "tmp", "var/tmp"}, p)
}

// Write writes the directory to a stream.
func (t Tree) Write(ctx context.Context, out *tar.Writer) error {
	var refused specialFiles
	// The first path of each file that has several.
	links := make(map[cache.Identity]string)
	buffer := make([]byte, tarstream.CopyBuffer)
	selects := func(selected func(string) bool, p string) bool { return selected != nil && selected(p) }
	skip := func(p string) bool { return neverShared(p) || selects(t.Skip, p) || selects(t.Omit, p) }
	err := walk(ctx, t.Root, t.Path, skip, func(f file) error {
		if selects(t.Omit, f.path) {
			return nil
		}
		e, err := f.entry(t.Owners)
		if err != nil {
			return err
		}
		if (!t.Special || e.Type == 0) && refused.add(e) {
			return nil
		}
		if e.Type == tree.Regular && f.stat.Nlink > 1 {
			if first, ok := links[f.identity()]; ok {
				return out.WriteHeader(tarstream.HardLink(e.Path, first))
			}
			links[f.identity()] = e.Path
		}
		if e.Type == tree.Symlink {
			if err := f.readLink(&e); err != nil {
				return err
			}
		}
		if e.Xattrs, err = f.xattrs(); err != nil {
			return err
		}
		if err := out.WriteHeader(tarstream.Header(e)); err != nil || e.Type != tree.Regular {
			return err
		}
		return f.read(func(content io.Reader) error {
			n, err := io.CopyBuffer(out, tarstream.NewCountingReader(ctx, content), buffer)
			t.Read(n)
			return err
		})
	})
	return errors.Join(refused.err(), err)
}

// specialFiles collects the special files that are refused.
type specialFiles struct {
	first []string
	count int
}

// maxListed is how many of them the error lists.
const maxListed = 20

// add adds a file if it is special, and reports whether it is.
func (s *specialFiles) add(e tree.Entry) bool {
	kind := "socket"
	switch e.Type {
	case tree.Directory, tree.Regular, tree.Symlink:
		return false
	case tree.CharDevice, tree.BlockDevice, tree.FIFO:
		kind = e.Type.String()
	}
	if s.count++; s.count <= maxListed {
		s.first = append(s.first, fmt.Sprintf("%q (%s)", e.Path, kind))
	}
	return true
}

// err lists them; it is nil if there are none.
func (s *specialFiles) err() error {
	if s.count == 0 {
		return nil
	}
	more := ""
	if s.count > maxListed {
		more = fmt.Sprintf(" and %d more", s.count-maxListed)
	}
	return fmt.Errorf("%w: special files: %s%s; remove them: a VM creates those that it needs",
		source.ErrRefused, strings.Join(s.first, ", "), more)
}

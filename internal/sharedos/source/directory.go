package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Directory is a root file system that lies in a directory of this machine.
//
// Read is all that a tar archive could hold and the user who runs this may read: owners as Owners says, modes,
// extended attributes with file capabilities and ACLs, hard links. Not read is what lies in /dev, /proc, /sys, /run,
// /tmp and /var/tmp, which no release shares and which may be the running machine's. Everywhere else, devices, named
// pipes and sockets are refused, all by name. Labels of this machine's SELinux, IMA, EVM or Smack are left out.
type Directory struct {
	// Path of the directory; a symbolic link to it is followed.
	Path string
	// Owners maps account numbers.
	Owners Owners
	// CacheDir is a directory in which digests of files are remembered; empty: none are.
	CacheDir string
	// Limits bound what the directory may hold; zero values mean the defaults.
	Limits Limits
}

// TarLimits are the limits of what Open yields.
func (d Directory) TarLimits() Limits { return d.Limits }

// String names the directory for a user.
func (d Directory) String() string { return fmt.Sprintf("directory %q", d.Path) }

// ReadableAtPlan is true: it is there or not.
func (d Directory) ReadableAtPlan() bool { return true }

// Fingerprint is "directory:sha256:<64 hex>", a digest of what Open yields, times of modification included. Every
// file is looked at, and those are read whose device, inode, size or times are not as they were remembered.
func (d Directory) Fingerprint(ctx context.Context) (string, error) {
	digest, err := d.fingerprint(ctx)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", d, err)
	}
	return "directory:" + digest.String(), nil
}

func (d Directory) fingerprint(ctx context.Context) (_ tree.Digest, err error) {
	root, err := d.root()
	if err != nil {
		return tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	index, err := openIndex(d.CacheDir, root.Name())
	if err != nil {
		return tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, index.Close()) }()
	sum := newEntrySum()
	var special specialFiles
	// What is over the limits is refused before it is read: a file may be nothing but a hole of any size.
	entries, within, linked := 0, &tarScanner{limits: d.Limits.withDefaults()}, map[inode]bool{}
	err = walkDir(ctx, root, tree.Root, neverShared, func(f onDisk) error {
		e, err := f.entry(d.Owners)
		if err != nil {
			return err
		}
		if special.add(e) {
			return nil
		}
		if entries++; entries > within.limits.Entries {
			return fmt.Errorf("more than %d entries: %w", within.limits.Entries, ErrLimit)
		}
		// Of a file that has several names only the first has content, as in the stream.
		if e.Type == tree.Regular && !linked[f.identity()] {
			if f.stat.Nlink > 1 {
				linked[f.identity()] = true
			}
			if err := within.addContent(e.Size); err != nil {
				return err
			}
		}
		if err := index.complete(ctx, f, &e); err != nil {
			return err
		}
		sum.add(e)
		return nil
	})
	if err = errors.Join(special.err(), err); err != nil {
		return tree.Digest{}, err
	}
	return sum.digest(), index.save()
}

// root opens the directory.
func (d Directory) root() (*os.File, error) {
	if err := d.Owners.check(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(d.Path)
	if err != nil {
		return nil, err
	}
	// Not to wait for the writer of a named pipe that a user took for a directory.
	root, err := os.OpenFile(abs, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return root, nil
}

// Open yields the tar stream. A file that changes while it is read is reported by Read and Close.
func (d Directory) Open(ctx context.Context, progress Progress) (io.ReadCloser, error) {
	root, err := d.root()
	if err != nil {
		return nil, &sourceError{source: d, err: err}
	}
	step := "reading " + filepath.Base(root.Name())
	return newTarPipe(ctx, d, func(ctx context.Context, out *tar.Writer) error {
		from := dirStream{root: root, at: tree.Root, owners: d.Owners, skip: neverShared, tell: told(progress, step)}
		return errors.Join(from.write(ctx, out), root.Close())
	}), nil
}

// told is progress of one step by bytes of an unknown total, told once a megabyte.
func told(progress Progress, step string) func(more int64) {
	var done, shown int64
	return func(more int64) {
		if done += more; progress != nil && done-shown >= 1<<20 {
			shown = done
			progress(step, done, 0)
		}
	}
}

// neverShared reports whether a directory's content belongs to a running machine alone.
func neverShared(p string) bool {
	return slices.Contains([]string{"dev", "proc", "sys", "run", "tmp", "var/tmp"}, p)
}

// dirStream is a directory that is written as a tar stream.
type dirStream struct {
	root *os.File
	// at is its path in the tree.
	at     string
	owners Owners
	// special is true if devices and named pipes are written; else they are refused.
	special bool
	// skip tells directories that are written without what is in them.
	skip func(p string) bool
	// omit tells files that are not written; nil: all are.
	omit func(p string) bool
	tell func(more int64)
}

func (d dirStream) write(ctx context.Context, out *tar.Writer) error {
	var refused specialFiles
	// The first path of each file that has several.
	links := make(map[inode]string)
	buffer := make([]byte, copyBuffer)
	leave := func(p string) bool { return d.omit != nil && d.omit(p) }
	err := walkDir(ctx, d.root, d.at, func(p string) bool { return d.skip(p) || leave(p) }, func(f onDisk) error {
		if leave(f.path) {
			return nil
		}
		e, err := f.entry(d.owners)
		if err != nil {
			return err
		}
		if (!d.special || e.Type == 0) && refused.add(e) {
			return nil
		}
		if e.Type == tree.Regular && f.stat.Nlink > 1 {
			if first, ok := links[f.identity()]; ok {
				return out.WriteHeader(hardLink(e.Path, first))
			}
			links[f.identity()] = e.Path
		}
		if err := f.attach(&e); err != nil {
			return err
		}
		if err := out.WriteHeader(tarHeader(e)); err != nil || e.Type != tree.Regular {
			return err
		}
		return f.read(func(content io.Reader) error {
			n, err := io.CopyBuffer(out, &countingReader{ctx: ctx, r: content}, buffer)
			d.tell(n)
			return err
		})
	})
	return errors.Join(refused.err(), err)
}

// specialFiles collects files that a directory source refuses.
type specialFiles struct {
	first []string
	count int
}

// maxNamed is how many of them the error names.
const maxNamed = 20

// add notes a file if it is special and reports whether it is.
func (s *specialFiles) add(e tree.Entry) bool {
	kind := "socket"
	switch e.Type {
	case tree.Directory, tree.Regular, tree.Symlink:
		return false
	case tree.CharDevice, tree.BlockDevice, tree.FIFO:
		kind = e.Type.String()
	}
	if s.count++; s.count <= maxNamed {
		s.first = append(s.first, fmt.Sprintf("%q (%s)", e.Path, kind))
	}
	return true
}

// err names them all; nil if there are none.
func (s *specialFiles) err() error {
	if s.count == 0 {
		return nil
	}
	more := ""
	if s.count > maxNamed {
		more = fmt.Sprintf(" and %d more", s.count-maxNamed)
	}
	return fmt.Errorf("%w: special files: %s%s; remove them: a guest makes those that it needs",
		ErrRefused, strings.Join(s.first, ", "), more)
}

// Package directory reads a root file system from a directory of this machine.
package directory

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Source is a root file system in a directory of this machine.
//
// It reads what a tar archive can hold and this process may read: owners as mapped by Owners, modes, hard links, and
// extended attributes including file capabilities and ACLs. It does not read what is below /dev, /proc, /sys, /run,
// /tmp and /var/tmp, which no release shares and which may belong to the running machine. Elsewhere, devices, named
// pipes and sockets are refused; the error lists them. Labels of this machine's SELinux, IMA, EVM or Smack are left
// out.
type Source struct {
	// Path of the directory; it may be a symbolic link to one.
	Path string
	// Owners maps account numbers.
	Owners Owners
	// CacheDir is a directory for digests of files; if it is empty, none are stored.
	CacheDir string
	// Limits bound what the directory may contain; zero values mean the defaults.
	Limits source.Limits
}

// TarLimits returns the limits of the stream that Open returns.
func (s Source) TarLimits() source.Limits { return s.Limits }

// String names the directory for a user.
func (s Source) String() string { return fmt.Sprintf("directory %q", s.Path) }

// Fingerprint returns "directory:sha256:<64 hex>", a digest of what Open yields, times of modification included. It
// visits every file and reads those whose device, inode, size or times differ from the last run.
func (s Source) Fingerprint(ctx context.Context) (string, error) {
	digest, err := s.fingerprint(ctx)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", s, err)
	}
	return "directory:" + digest.String(), nil
}

func (s Source) fingerprint(ctx context.Context) (_ tree.Digest, err error) {
	now := time.Now()
	root, err := s.openRoot()
	if err != nil {
		return tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	digests, err := cache.OpenDigests(s.CacheDir, root.Name(), now)
	if err != nil {
		return tree.Digest{}, err
	}
	sum := tree.NewHasher()
	var special specialFiles
	// The limits are checked before a file is read: it may be a hole of any size.
	limits, entries, content, linked := s.Limits.OrDefault(), 0, int64(0), map[cache.Identity]bool{}
	err = walk(ctx, root, tree.Root, neverShared, func(f file) error {
		e, err := f.entry(s.Owners)
		if err != nil {
			return err
		}
		if special.add(e) {
			return nil
		}
		if entries++; entries > limits.Entries {
			return fmt.Errorf("more than %d entries: %w", limits.Entries, source.ErrLimit)
		}
		// Of a file with several names only the first one has content, as in the stream.
		if e.Type == tree.Regular && !linked[f.identity()] {
			if f.stat.Nlink > 1 {
				linked[f.identity()] = true
			}
			if err := limits.CheckContent(max(e.Size, content+e.Size)); err != nil {
				return err
			}
			content += e.Size
		}
		if err := complete(ctx, f, &e, digests); err != nil {
			return err
		}
		sum.Add(e)
		return nil
	})
	if err = errors.Join(special.err(), err); err != nil {
		return tree.Digest{}, err
	}
	return sum.Digest(), digests.Save()
}

// complete adds link target, extended attributes and digest to an entry. Digests are stored only for files without
// extended attributes, so a stored digest saves reading these, too.
func complete(ctx context.Context, f file, e *tree.Entry, digests *cache.Digests) (err error) {
	if e.Type == tree.Symlink {
		if err := f.readLink(e); err != nil {
			return err
		}
	}
	var known bool
	if e.Digest, known = digests.Lookup(f.identity()); known {
		return nil
	}
	if e.Xattrs, err = f.xattrs(); err != nil {
		return err
	}
	if e.Type == tree.Regular {
		if err := f.read(func(content io.Reader) (err error) {
			e.Digest, err = cache.DigestOf(ctx, content)
			return err
		}); err != nil {
			return err
		}
	}
	if len(e.Xattrs) == 0 {
		digests.Add(f.identity(), e.Digest)
	}
	return nil
}

func (s Source) openRoot() (*os.File, error) {
	if err := s.Owners.check(); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(s.Path)
	if err != nil {
		return nil, err
	}
	// O_DIRECTORY: opening a named pipe would wait for its writer.
	return os.OpenFile(abs, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Open returns the tar stream. Read and Close report a file that changes while it is read.
func (s Source) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	root, err := s.openRoot()
	if err != nil {
		return nil, source.Wrap(s, err)
	}
	read := progress.Counter("reading "+filepath.Base(root.Name()), 0)
	return tarstream.Pipe(ctx, s, func(ctx context.Context, out *tar.Writer) error {
		from := Tree{Root: root, Path: tree.Root, Owners: s.Owners, Read: read}
		return errors.Join(from.Write(ctx, out), root.Close())
	}), nil
}

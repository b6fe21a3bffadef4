package oci

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
)

// maxKept bounds the files of an archive that are kept in memory because they may be metadata, in bytes.
const maxKept = 64 << 20

// layoutFile has the files of a layout in a tar file, which may be compressed: what skopeo calls oci-archive and
// docker-archive.
type layoutFile struct {
	path, spoolDir string
	limits         source.Limits
	indexed        bool
	// small are the files that may be metadata, sizes the sizes of all files, and links what links
	// lead to, all by name.
	small map[string][]byte
	sizes map[string]int64
	links map[string]string
	// spooled are the files that prepare has unpacked, without names.
	spooled map[string]*os.File
}

// each calls do for each file of the archive, with a reader of its content.
func (l *layoutFile) each(ctx context.Context,
	do func(name string, header *tar.Header, content io.Reader) error) (err error) {
	file, err := cache.OpenFile(l.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	stream, free, err := tarstream.Decompress(file)
	if err != nil {
		return err
	}
	defer free()
	scan := tarstream.NewScanner(ctx, stream, l.limits, tarstream.Usage{})
	for count := 0; ; count++ {
		header, err := scan.Next()
		if errors.Is(err, io.EOF) {
			return file.CheckUnchanged()
		}
		if err != nil {
			return err
		}
		if count >= l.limits.OrDefault().Entries {
			return fmt.Errorf("more than %d files: %w", count, source.ErrLimit)
		}
		name, err := tarstream.Path(header)
		if err != nil {
			return fmt.Errorf("%q: %w", header.Name, err)
		}
		if err := scan.AddContent(header.Size); err != nil {
			return err
		}
		if err := do(name, header, scan); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
	}
}

func (l *layoutFile) index(ctx context.Context) error {
	if l.indexed {
		return nil
	}
	l.small, l.sizes, l.links = map[string][]byte{}, map[string]int64{}, map[string]string{}
	kept := int64(0)
	err := l.each(ctx, func(name string, header *tar.Header, content io.Reader) error {
		switch header.Typeflag {
		case tar.TypeLink, tar.TypeSymlink: // older versions of Docker save equal layers once
			l.links[name] = linkTarget(name, header)
			return nil
		case tar.TypeReg:
		default:
			return nil
		}
		l.sizes[name] = header.Size
		if kept += header.Size; header.Size > maxMetadata || kept > maxKept {
			kept -= header.Size
			return nil
		}
		text, err := readMetadata(content, name)
		l.small[name] = text
		return err
	})
	l.indexed = err == nil
	return err
}

func linkTarget(name string, header *tar.Header) string {
	if header.Typeflag == tar.TypeLink {
		return strings.TrimPrefix(path.Clean("/"+header.Linkname), "/")
	}
	return strings.TrimPrefix(path.Join("/", path.Dir(name), header.Linkname), "/")
}

// follow returns the name of the file that a name leads to.
func (l *layoutFile) follow(name string) string {
	for range 8 {
		to, ok := l.links[name]
		if !ok {
			break
		}
		name = to
	}
	return name
}

func (l *layoutFile) read(ctx context.Context, name string) ([]byte, error) {
	if err := l.index(ctx); err != nil {
		return nil, err
	}
	name = l.follow(name)
	if text, ok := l.small[name]; ok {
		return text, nil
	}
	if size, ok := l.sizes[name]; ok {
		return nil, fmt.Errorf("%s has %d bytes, which is too much: %w", name, size, source.ErrLimit)
	}
	return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
}

func (l *layoutFile) size(name string) int64 { return l.sizes[l.follow(name)] }

// prepare unpacks files in one pass over the archive.
func (l *layoutFile) prepare(ctx context.Context, names []string) (err error) {
	if err := l.index(ctx); err != nil {
		return err
	}
	wanted := make([]string, len(names))
	for i, name := range names {
		wanted[i] = l.follow(name)
	}
	l.spooled = map[string]*os.File{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	return l.each(ctx, func(name string, header *tar.Header, content io.Reader) error {
		if header.Typeflag != tar.TypeReg || !slices.Contains(wanted, name) || l.spooled[name] != nil {
			return nil
		}
		if err := os.MkdirAll(l.spoolDir, 0o700); err != nil {
			return err
		}
		file, err := os.CreateTemp(l.spoolDir, ".layer-*")
		if err != nil {
			return err
		}
		l.spooled[name] = file
		if err := os.Remove(file.Name()); err != nil {
			return err
		}
		_, err = io.Copy(file, content)
		return err
	})
}

// open returns a file that prepare has unpacked. It may be opened several times: layers of an image can be equal.
func (l *layoutFile) open(_ context.Context, name string) (*os.File, error) {
	file, ok := l.spooled[l.follow(name)]
	if !ok {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	copied, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	return os.NewFile(uintptr(copied), name), nil
}

func (l *layoutFile) close() (err error) {
	for _, file := range l.spooled {
		err = errors.Join(err, file.Close())
	}
	l.spooled = nil
	return err
}

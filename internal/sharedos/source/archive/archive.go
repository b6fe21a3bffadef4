// Package archive reads a root file system from a tar file.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
)

// Source is a root file system in a tar file, which may be compressed with gzip, zstd, xz or bzip2. The format is
// detected from the file's first bytes; its name does not matter.
type Source struct {
	// Path of the file.
	Path string
	// Download replaces Path by a file to download; nil if there is none.
	Download *fetch.Download
	// CacheDir is a directory for digests of files and for downloads. If it is empty, digests are not stored and
	// nothing can be downloaded.
	CacheDir string
	// Limits bound what the archive may contain; zero values mean the defaults.
	Limits source.Limits
}

// TarLimits returns the limits of the stream that Open returns.
func (s Source) TarLimits() source.Limits { return s.Limits }

// String names the archive for a user.
func (s Source) String() string {
	if s.Download != nil {
		return fmt.Sprintf("archive %q", s.Download)
	}
	return fmt.Sprintf("archive %q", s.Path)
}

// Fingerprint returns "archive:sha256:<64 hex>", the digest of the file.
func (s Source) Fingerprint(ctx context.Context) (string, error) {
	digest, err := fetch.Digest(ctx, s.Path, s.Download, s.CacheDir)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", s, err)
	}
	return "archive:" + digest.String(), nil
}

// Open returns the tar stream. Read or Close reports a file that is damaged or that changes while it is read.
func (s Source) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	opened, err := s.open(ctx, progress)
	if err != nil {
		return nil, source.Wrap(s, err)
	}
	return opened, nil
}

func (s Source) open(ctx context.Context, progress source.Progress) (*stream, error) {
	file, err := fetch.Open(ctx, s.Path, s.Download, s.CacheDir, s.Limits, progress)
	if err != nil {
		return nil, err
	}
	read := progress.Counter("reading "+filepath.Base(file.Name()), file.Size())
	opened := &stream{source: s, file: file, ctx: ctx}
	opened.in = tarstream.NewCountingReader(ctx, &fetch.ReadNotifier{Reader: file, OnRead: read})
	opened.Reader, opened.free, err = tarstream.Decompress(opened.in)
	if err != nil {
		return nil, errors.Join(opened.explain(err), file.Close())
	}
	return opened, nil
}

// stream is the tar stream of an archive.
type stream struct {
	io.Reader
	source Source
	file   *cache.File
	ctx    context.Context
	in     *tarstream.CountingReader
	// free frees the decompressor.
	free func()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = s.explain(err)
	}
	return n, err
}

// explain adds to an error where in which file it occurred. Unless the file cannot be read, it is damaged.
func (s *stream) explain(err error) error {
	var unreadable *os.PathError
	switch {
	case s.ctx.Err() != nil:
		err = context.Cause(s.ctx)
	case errors.Is(err, source.ErrCorrupt), errors.Is(err, source.ErrRefused):
		err = s.at(err)
	case !errors.As(err, &unreadable):
		err = s.at(fmt.Errorf("%w: %w", source.ErrCorrupt, err))
	}
	return source.Wrap(s.source, err)
}

// at adds the place to an error. The decompressor reads ahead, so the place is somewhat before what was read.
func (s *stream) at(err error) error {
	return fmt.Errorf("before byte %d of %d: %w", s.in.N, s.file.Size(), err)
}

// Close reports if the file was modified since Open.
func (s *stream) Close() error {
	s.free()
	return source.Wrap(s.source, errors.Join(s.file.CheckUnchanged(), s.file.Close()))
}

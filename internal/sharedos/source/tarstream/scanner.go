package tarstream

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// MaxXattrs bounds the names and values of one file's extended attributes together, in bytes: that much every file
	// system can store which a layer or a VM uses.
	MaxXattrs = 64 << 10
	// maxPadding bounds what is read after the end of an archive, in bytes.
	maxPadding = 64 << 20
)

// CountingReader counts the bytes that it reads. Reading fails once its context ends.
type CountingReader struct {
	ctx context.Context
	r   io.Reader
	// N is the number of bytes read.
	N int64
}

// NewCountingReader returns a reader of r.
func NewCountingReader(ctx context.Context, r io.Reader) *CountingReader {
	return &CountingReader{ctx: ctx, r: r}
}

func (c *CountingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.N += int64(n)
	return n, err
}

// Scanner reads the headers of a tar stream one after the other and enforces limits. Read returns the content of the
// current entry.
type Scanner struct {
	in     *CountingReader
	tar    *tar.Reader
	limits source.Limits
	usage  Usage
}

// Usage is what was counted against limits.
type Usage struct {
	// Content and Metadata are in bytes.
	Content, Metadata int64
}

// NewScanner returns a scanner that counts what it reads on top of usage.
func NewScanner(ctx context.Context, r io.Reader, limits source.Limits, usage Usage) *Scanner {
	in := NewCountingReader(ctx, r)
	return &Scanner{in: in, tar: tar.NewReader(in), limits: limits.OrDefault(), usage: usage}
}

// Usage returns what was counted so far.
func (s *Scanner) Usage() Usage { return s.usage }

// Read reads the content of the current entry.
func (s *Scanner) Read(p []byte) (int, error) { return s.tar.Read(p) }

// Next returns the next header that describes an entry. It returns io.EOF when the whole stream was read, including
// what follows the end of the archive.
func (s *Scanner) Next() (*tar.Header, error) {
	for {
		before := s.in.N
		header, err := s.tar.Next()
		switch {
		case errors.Is(err, io.EOF):
			// archive/tar also takes the end of the input for the end of the archive. In that case it has read less
			// than one block of the end-of-archive marker since the last entry.
			if s.in.N-before < 512 {
				return nil, fmt.Errorf("after %d bytes: no end-of-archive marker: %w", s.in.N, source.ErrCorrupt)
			}
			if err := s.readPadding(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		case err != nil:
			return nil, s.explain(err)
		case header.Typeflag != tar.TypeXGlobalHeader:
			return header, nil
		}
	}
}

// AddContent counts the content of a regular file, in bytes. It returns ErrLimit if that is too much.
func (s *Scanner) AddContent(size int64) error {
	if size > s.limits.Content {
		return s.limits.CheckContent(size)
	}
	s.usage.Content += size
	return s.limits.CheckContent(s.usage.Content)
}

// AddMetadata counts the path, the link target and the extended attributes of an entry. It returns ErrLimit if that is
// too much.
func (s *Scanner) AddMetadata(e tree.Entry) error {
	s.usage.Metadata += int64(len(e.Path) + len(e.Link))
	for name, value := range e.Xattrs {
		s.usage.Metadata += int64(len(name) + len(value))
	}
	if s.usage.Metadata > s.limits.Metadata {
		return fmt.Errorf("more than %d bytes of names, links and attributes: %w", s.limits.Metadata, source.ErrLimit)
	}
	return nil
}

// explain turns a failure to read on into ErrCorrupt. Errors of the spool and of the stream's own source stay as they
// are.
func (s *Scanner) explain(err error) error {
	if errors.Is(err, errSpool) || errors.Is(err, source.ErrCorrupt) ||
		errors.Is(err, source.ErrRefused) || s.in.ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("at byte %d of the stream: %w: %w", s.in.N, source.ErrCorrupt, err)
}

// readPadding reads what follows the end of the archive. So the decompressor reaches its own end and verifies its
// checksums, and an archive that was appended to another is reported rather than ignored.
func (s *Scanner) readPadding() error {
	buf := make([]byte, 64<<10)
	for read := int64(0); ; {
		n, err := s.in.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return fmt.Errorf("data after the end of the archive, near byte %d: %w", s.in.N, source.ErrCorrupt)
			}
		}
		if read += int64(n); read > maxPadding {
			return fmt.Errorf("more than %d bytes after the end of the archive: %w", int64(maxPadding), source.ErrLimit)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return s.explain(err)
		}
	}
}

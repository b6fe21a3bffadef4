package source

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// spool is a file without a name that holds each distinct content once. It is a tree.Content.
type spool struct {
	file *os.File
	at   map[tree.Digest]span
	end  int64
	// written is where the file has nothing but a hole from.
	written int64
	buf     []byte
}

// span is where a content lies in the spool.
type span struct{ offset, size int64 }

// newSpool makes an empty spool. The file has no name from the start, so that nothing is left of it when the
// process ends in any way.
func newSpool(dir string) (*spool, error) {
	file, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, fmt.Errorf("make a spool file: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("unlink the spool file: %w", err), file.Close())
	}
	return &spool{file: file, at: make(map[tree.Digest]span), buf: make([]byte, len(zeros))}, nil
}

// errSpool marks a failure of the spool itself, as against one of the stream that it copies.
var errSpool = errors.New("write to the spool")

// add copies exactly size bytes from r and returns their digest. A content that is there already takes no room.
func (s *spool) add(r io.Reader, size int64) (tree.Digest, error) {
	hash := sha256.New()
	for done := int64(0); done < size; {
		part := s.buf[:min(int64(len(s.buf)), size-done)]
		if _, err := io.ReadFull(r, part); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return tree.Digest{}, err
		}
		hash.Write(part)
		if err := s.write(part, s.end+done); err != nil {
			return tree.Digest{}, fmt.Errorf("%w: %w", errSpool, err)
		}
		done += int64(len(part))
	}
	var digest tree.Digest
	hash.Sum(digest[:0])
	if _, ok := s.at[digest]; !ok {
		s.at[digest] = span{offset: s.end, size: size}
		s.end += size
	}
	return digest, nil
}

// zeros are as many as are read at once.
var zeros [256 << 10]byte

// write writes at an offset, and leaves holes where there are only zeros: a file may be nearly nothing else.
func (s *spool) write(part []byte, offset int64) error {
	end := offset + int64(len(part))
	if offset >= s.written && bytes.Equal(part, zeros[:len(part)]) {
		info, err := s.file.Stat()
		if err != nil || info.Size() >= end {
			return err
		}
		return s.file.Truncate(end)
	}
	if _, err := s.file.WriteAt(part, offset); err != nil {
		return err
	}
	s.written = max(s.written, end)
	return nil
}

// Open implements tree.Content. Readers are independent of each other.
func (s *spool) Open(digest tree.Digest) (io.ReadCloser, error) {
	at, ok := s.at[digest]
	if !ok {
		return nil, fmt.Errorf("content %s: %w", digest, os.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(s.file, at.offset, at.size)), nil
}

// Close frees the file.
func (s *spool) Close() error { return s.file.Close() }

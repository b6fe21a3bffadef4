package tarstream

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// spool is an unnamed file that stores each distinct content once. It implements tree.Content.
type spool struct {
	file  *os.File
	spans map[tree.Digest]span
	// end is where the next content goes.
	end int64
	// written is where the data ends that was written so far. Beyond it the file is a hole.
	written int64
	buf     []byte
}

// span is the place of a content in the spool, in bytes.
type span struct{ offset, size int64 }

func newSpool(dir string) (*spool, error) {
	file, err := cache.UnnamedFile(dir)
	if err != nil {
		return nil, fmt.Errorf("make a spool file: %w", err)
	}
	return &spool{file: file, spans: make(map[tree.Digest]span), buf: make([]byte, len(zeros))}, nil
}

// errSpool marks a failure of the spool itself, as opposed to a failure of the stream that is copied into it.
var errSpool = errors.New("write to the spool")

// add copies exactly size bytes from r and returns their digest. A content that is stored already takes no more space.
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
	digest := tree.Digest(hash.Sum(nil))
	if _, ok := s.spans[digest]; !ok {
		s.spans[digest] = span{offset: s.end, size: size}
		s.end += size
	}
	return digest, nil
}

// zeros is as long as the buffer of a spool.
var zeros [256 << 10]byte

// write writes at an offset. Zeros become holes: a sparse file may consist of little else.
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
	at, ok := s.spans[digest]
	if !ok {
		return nil, fmt.Errorf("content %s: %w", digest, os.ErrNotExist)
	}
	return io.NopCloser(io.NewSectionReader(s.file, at.offset, at.size)), nil
}

// Close frees the file.
func (s *spool) Close() error { return s.file.Close() }

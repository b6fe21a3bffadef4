package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// repeated is content of which each file is one byte over and over.
type repeated map[tree.Digest]tree.Entry

func (r repeated) file(path string, size int) tree.Entry {
	e := tree.Entry{Path: path, Type: tree.Regular, Size: int64(size),
		Digest: tree.Sum(bytes.Repeat([]byte(path[:1]), size))}
	r[e.Digest] = e
	return e
}

func (r repeated) Open(digest tree.Digest) (io.ReadCloser, error) {
	e, ok := r[digest]
	if !ok {
		return nil, fmt.Errorf("no content %s", digest)
	}
	return io.NopCloser(bytes.NewReader(bytes.Repeat([]byte(e.Path[:1]), int(e.Size)))), nil
}

var errFull = errors.New("no space left")

// small takes some bytes and fails then.
type small struct{ left int }

func (s *small) Write(p []byte) (int, error) {
	if s.left -= len(p); s.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriteReturnsWhyItCouldNotWrite(t *testing.T) {
	content := repeated{}
	entries := []tree.Entry{{Path: tree.Root, Type: tree.Directory}}
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		entries = append(entries, content.file(name, 900_000))
	}
	whole := &tree.Tree{Entries: entries, Content: content}
	size, err := Write(context.Background(), whole, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for left := 0; left < int(size); left += 700_000 {
		synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
			if _, err := Write(t.Context(), whole, &small{left}); !errors.Is(err, errFull) {
				t.Errorf("after %d bytes: got %v, want what the file said", left, err)
			}
		})
	}
}

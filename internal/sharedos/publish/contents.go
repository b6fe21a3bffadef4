package publish

import (
	"bytes"
	"errors"
	"hash"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// readContents reads a whole contents list.
func readContents(list []byte) ([]tree.Entry, error) {
	reader := release.NewContentsReader(bytes.NewReader(list))
	var entries []tree.Entry
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

// summing computes the digest and the size of what is written to it.
type summing struct {
	sum  hash.Hash
	size int64
}

func (s *summing) Write(p []byte) (int, error) {
	s.size += int64(len(p))
	return s.sum.Write(p)
}

func (s *summing) blob() release.Blob {
	return release.Blob{Digest: tree.Digest(s.sum.Sum(nil)), Size: s.size}
}

// countedContent reports how much of a tree's content has been read.
type countedContent struct {
	tree.Content
	done, total int64
	progress    func(done, total int64)
}

// Open implements tree.Content.
func (c *countedContent) Open(digest tree.Digest) (io.ReadCloser, error) {
	from, err := c.Content.Open(digest)
	if err != nil {
		return nil, err
	}
	return &countedReader{ReadCloser: from, content: c}, nil
}

type countedReader struct {
	io.ReadCloser
	content *countedContent
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.content.done += int64(n)
	r.content.progress(r.content.done, r.content.total)
	return n, err
}

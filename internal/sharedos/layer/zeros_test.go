package layer

import (
	"crypto/sha256"
	"io"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// filled is content of one size that takes no memory: a byte over and over, from which data differs at some offsets.
type filled struct {
	fill byte
	size int64
	data map[int64]string
}

type filledReader struct {
	filled
	at int64
}

func (r *filledReader) Read(p []byte) (int, error) {
	p = p[:min(int64(len(p)), r.size-r.at)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	clear(p)
	for i := range p {
		if r.fill == 0 {
			break
		}
		p[i] = r.fill
	}
	for offset, text := range r.data {
		for i := range len(text) {
			if at := offset + int64(i) - r.at; at >= 0 && at < int64(len(p)) {
				p[at] = text[i]
			}
		}
	}
	r.at += int64(len(p))
	return len(p), nil
}

func (f filled) Open(tree.Digest) (io.ReadCloser, error) {
	return io.NopCloser(&filledReader{filled: f}), nil
}

func (f filled) digest(t *testing.T) (digest tree.Digest) {
	t.Helper()
	sum := sha256.New()
	if _, err := io.Copy(sum, &filledReader{filled: f}); err != nil {
		t.Fatal(err)
	}
	copy(digest[:], sum.Sum(nil))
	return digest
}

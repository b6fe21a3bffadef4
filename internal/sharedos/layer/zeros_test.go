package layer

import (
	"crypto/sha256"
	"io"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// zeros is content of one size that takes no memory.
type zeros struct{ size int64 }

type zeroReader struct{}

func (zeroReader) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (z zeros) Open(tree.Digest) (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(zeroReader{}, z.size)), nil
}

func (z zeros) digest(t *testing.T) (digest tree.Digest) {
	t.Helper()
	sum := sha256.New()
	if _, err := io.CopyN(sum, zeroReader{}, z.size); err != nil {
		t.Fatal(err)
	}
	copy(digest[:], sum.Sum(nil))
	return digest
}

package sources

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// writeTar writes an archive of empty files.
func writeTar(to io.Writer, names ...string) error {
	out := tar.NewWriter(to)
	for _, name := range names {
		if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}); err != nil {
			return err
		}
	}
	return out.Close()
}

func opener(data []byte) tarball.Opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// sum reads a file to its end, closes it, and returns its size and its SHA-256 in hexadecimal digits.
func sum(from io.ReadCloser) (int64, string, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, from)
	return n, hex.EncodeToString(hash.Sum(nil)), errors.Join(err, from.Close())
}

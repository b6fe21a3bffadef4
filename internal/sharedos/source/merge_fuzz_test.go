package source

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Whatever two layers hold, laying them over each other yields a stream that makes a tree, or one of this package's
// errors; and no whiteout comes through.
func FuzzMerge(f *testing.F) {
	layer := func(names ...string) []byte {
		var b bytes.Buffer
		out := tar.NewWriter(&b)
		for _, name := range names {
			header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}
			if path, target, ok := strings.Cut(name, "->"); ok {
				header.Name, header.Linkname, header.Typeflag = path, target, tar.TypeSymlink
			} else if path, target, ok := strings.Cut(name, "="); ok {
				header.Name, header.Linkname, header.Typeflag = path, target, tar.TypeLink
			} else if strings.HasSuffix(name, "/") {
				header.Typeflag = tar.TypeDir
			}
			if err := out.WriteHeader(header); err != nil {
				f.Fatal(err)
			}
		}
		if err := out.Close(); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(layer("a", "d/b", "l->d"), layer(".wh.a", "l/c", "x=d/b"))
	f.Add(layer("d/a", "d/e/f"), layer("d/", "d/.wh..wh..opq", "d/n", ".wh.d"))
	f.Add(layer("a->b", "b->a"), layer("a/evil"))
	f.Add(layer("../evil"), layer(".wh..", "a=a"))
	f.Add(layer("d/a"), layer("d", "d/a"))
	dir := f.TempDir()
	limits := Limits{Content: 1 << 20, Entries: 1000, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		image, files := &ociImage{}, fakePlace{}
		for i, stream := range [][]byte{one, two} {
			if len(stream) < 512 {
				return
			}
			digest := tree.Digest(sha256.Sum256(stream))
			image.layers = append(image.layers, ociLayer{digest: digest, diff: digest, size: int64(len(stream))})
			path := filepath.Join(dir, string(rune('1'+i)))
			if err := os.WriteFile(path, stream, 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, path)
		}
		pipe := newTarPipe(t.Context(), &OCI{}, func(ctx context.Context, out *tar.Writer) error {
			return writeImage(ctx, files, image, limits, nil, out)
		})
		tr, spool, err := ReadTar(t.Context(), pipe, dir, Limits{})
		if closeErr := pipe.Close(); closeErr != nil {
			for _, known := range []error{ErrCorrupt, ErrRefused, ErrLimit} {
				if errors.Is(closeErr, known) {
					return
				}
			}
			t.Fatalf("error of no known kind: %v", closeErr)
		}
		if err != nil {
			// What is made of two layers can have a path that is too long for a tree, and nothing else.
			if !strings.Contains(err.Error(), "at most") {
				t.Fatalf("what was merged is no tree: %v", err)
			}
			return
		}
		defer func() { _ = spool.Close() }() // it was only read
		for _, e := range tr.Entries {
			if strings.HasPrefix(filepath.Base(e.Path), whiteoutPrefix) {
				t.Fatalf("the whiteout %q came through", e.Path)
			}
		}
	})
}

// fakePlace has layers in files, in their order.
type fakePlace []string

func (p fakePlace) resolve(context.Context) (tree.Digest, error) { return tree.Digest{}, nil }

func (p fakePlace) metadata(context.Context, tree.Digest, bool) ([]byte, error) { return nil, nil }

func (p fakePlace) layer(_ context.Context, layer ociLayer, _ func(int64)) (*os.File, error) {
	for _, path := range p {
		if data, err := os.ReadFile(path); err == nil && tree.Sum(data) == layer.digest {
			return os.Open(path)
		}
	}
	return nil, os.ErrNotExist
}

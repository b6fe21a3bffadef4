package oci

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

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Whatever two layers hold, laying them over each other yields a stream that makes a tree, or one of this package's
// errors; and no whiteout comes through.
func FuzzMerge(f *testing.F) {
	stream := func(names ...string) []byte {
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
	f.Add(stream("a", "d/b", "l->d"), stream(".wh.a", "l/c", "x=d/b"))
	f.Add(stream("d/a", "d/e/f"), stream("d/", "d/.wh..wh..opq", "d/n", ".wh.d"))
	f.Add(stream("a->b", "b->a"), stream("a/evil"))
	f.Add(stream("../evil"), stream(".wh..", "a=a"))
	f.Add(stream("d/a"), stream("d", "d/a"))
	f.Add(stream("d/a", "d->e", "d/b"), stream("e/x", "e", "e/", "usr//bin/./x"))
	archives := sourcetest.Archives()
	for i, archive := range archives {
		f.Add(sourcetest.Tar(f, archive.Items...), sourcetest.Tar(f, archives[len(archives)-1-i].Items...))
	}
	dir := f.TempDir()
	limits := source.Limits{Content: 1 << 20, Entries: 1000, Metadata: 1 << 20}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		img, files := &image{}, fakeStorage{}
		for i, data := range [][]byte{one, two} {
			if len(data) < 512 {
				return
			}
			digest := tree.Digest(sha256.Sum256(data))
			img.layers = append(img.layers, layer{digest: digest, diffID: digest, size: int64(len(data))})
			path := filepath.Join(dir, string(rune('1'+i)))
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			files = append(files, path)
		}
		pipe := tarstream.Pipe(t.Context(), &Source{}, func(ctx context.Context, out *tar.Writer) error {
			return writeImage(ctx, files, img, limits, nil, out)
		})
		tr, spool, err := tarstream.Read(t.Context(), pipe, dir, source.Limits{})
		if closeErr := pipe.Close(); closeErr != nil {
			for _, known := range []error{source.ErrCorrupt, source.ErrRefused, source.ErrLimit} {
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

// fakeStorage has layers in files, in their order.
type fakeStorage []string

func (p fakeStorage) resolve(context.Context) (tree.Digest, error) { return tree.Digest{}, nil }

func (p fakeStorage) metadata(context.Context, tree.Digest, bool) ([]byte, error) { return nil, nil }

func (p fakeStorage) layer(_ context.Context, layer layer, _ func(int64)) (*os.File, error) {
	for _, path := range p {
		if data, err := os.ReadFile(path); err == nil && tree.Sum(data) == layer.digest {
			return os.Open(path)
		}
	}
	return nil, os.ErrNotExist
}

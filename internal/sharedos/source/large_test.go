package source_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/diskimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
)

// large is the size of a file that does not fit 32 bits.
const large = 4<<30 + 1

// largeDigest is that of so many zeros: it takes ten seconds to find out.
const largeDigest = "sha256:fbb82f7b353676bb562eb82157fcf0ea42c36492ca13ee56dbf82c08b6802c5c"

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A file of more than 4 GiB comes through from a directory, and takes neither memory nor disk space for its zeros.
func TestALargeSparseFileComesThrough(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tr, done, err := sourcetest.Read(t, directory.Source{Path: holding(t)})
	sourcetest.Must(t, err)
	runtime.ReadMemStats(&after)
	if e, ok := tr.Lookup("large"); !ok || e.Size != large || e.Digest.String() != largeDigest {
		t.Errorf("%+v", e)
	}
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 64<<20 {
		t.Errorf("%d bytes more on the heap", grown)
	}
	sourcetest.Must(t, done())
}

// holding returns a directory with a file that is one hole of that size.
func holding(t *testing.T) string {
	t.Helper()
	dir := sourcetest.TempDir(t)
	file, err := os.Create(filepath.Join(dir, "large"))
	sourcetest.Must(t, err)
	sourcetest.Must(t, errors.Join(file.Truncate(large), file.Close()))
	return dir
}

// The other kinds of source yield the same stream, which is read here without computing digests.
func TestALargeSparseFileComesOutOfArchivesAndImages(t *testing.T) {
	dir := holding(t)
	disk := filepath.Join(sourcetest.TempDir(t), "disk.qcow2")
	sourcetest.Run(t, "", "qemu-img", "convert", "-O", "qcow2", sourcetest.Ext4(t, dir), disk)
	packed := filepath.Join(sourcetest.TempDir(t), "large.tar")
	sourcetest.Run(t, "", "tar", "--sparse", "--format=pax", "-C", dir, "-cf", packed, "large")
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return os.Open(packed) })
	sourcetest.Must(t, err)
	for name, src := range map[string]source.Source{
		"sparse archive": archive.Source{Path: packed},
		"disk image":     diskimage.Source{Path: disk, CacheDir: sourcetest.TempDir(t)},
		"OCI image": &oci.Source{Layout: sourcetest.Layout(t,
			map[string]v1.Image{"it": sourcetest.ImageOfLayers(t, layer)})},
	} {
		stream, err := src.Open(t.Context(), nil)
		sourcetest.Must(t, err)
		found := false
		for in := tar.NewReader(stream); ; {
			header, err := in.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				break
			}
			if header.Name != "large" {
				continue
			}
			found = true
			if n, err := io.Copy(onlyZeros{}, in); err != nil || n != large || header.Size != large {
				t.Errorf("%s: %d of %d bytes, %v", name, n, header.Size, err)
			}
		}
		if err := stream.Close(); err != nil || !found {
			t.Errorf("%s: found %v, %v", name, found, err)
		}
	}
}

// onlyZeros fails if anything else is written to it.
type onlyZeros struct{}

var block [64 << 10]byte

func (onlyZeros) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; rest = rest[min(len(rest), len(block)):] {
		if part := rest[:min(len(rest), len(block))]; !bytes.Equal(part, block[:len(part)]) {
			return 0, errors.New("not only zeros")
		}
	}
	return len(p), nil
}

// bomb is a stream of one file of zeros: a thousandth of its size when it is packed.
func bomb(t *testing.T, size int64) tarball.Opener {
	t.Helper()
	return func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			out := tar.NewWriter(w)
			err := out.WriteHeader(&tar.Header{Name: "bomb", Typeflag: tar.TypeReg, Size: size, Format: tar.FormatPAX})
			if err == nil {
				_, err = io.CopyN(out, zeros{}, size)
			}
			if err == nil {
				err = out.Close()
			}
			_ = w.CloseWithError(err) // it returns nil always
		}()
		return r, nil
	}
}

func TestWhatUnpacksToTooMuchIsRefusedBeforeItIsUnpacked(t *testing.T) {
	const size = 1 << 30
	limits := source.Limits{Content: 100 << 20}
	layer, err := tarball.LayerFromOpener(bomb(t, size), tarball.WithCompressionLevel(1))
	sourcetest.Must(t, err)
	dir := layoutOf(t, layer)
	blob, err := layer.Compressed()
	sourcetest.Must(t, err)
	path := filepath.Join(sourcetest.TempDir(t), "bomb.tar.gz")
	file, err := os.Create(path)
	sourcetest.Must(t, err)
	packed, err := io.Copy(file, blob)
	sourcetest.Must(t, errors.Join(err, file.Close(), blob.Close()))
	for name, src := range map[string]source.Source{
		"archive": archive.Source{Path: path, Limits: limits}, "image": &oci.Source{Layout: dir, Limits: limits},
	} {
		before := sourcetest.BytesRead(t)
		_, err := rootfs.Read(t.Context(), src, sourcetest.TempDir(t), nil)
		if !errors.Is(err, source.ErrLimit) || !strings.Contains(err.Error(), `"bomb"`) ||
			!strings.Contains(err.Error(), "raise the limit") {
			t.Errorf("%s of %d bytes: %v, want ErrLimit that says what to do", name, packed, err)
		}
		if read := sourcetest.BytesRead(t) - before; read > packed+1<<20 {
			t.Errorf("%s: %d bytes were read", name, read)
		}
	}
}

// many is how many files a large tree has.
const many = 300_000

func TestManyEntriesComeThroughInLittleMemory(t *testing.T) {
	stream := func() io.ReadCloser {
		r, w := io.Pipe()
		go func() {
			out := tar.NewWriter(w)
			var err error
			for i := 0; i < many && err == nil; i++ {
				content := fmt.Sprintf("%d", i%1000)
				if err = out.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/d%d/a-file-%d", i/500, i),
					Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err == nil {
					_, err = io.WriteString(out, content)
				}
			}
			if err == nil {
				err = out.Close()
			}
			_ = w.CloseWithError(err) // it returns nil always
		}()
		return r
	}
	in := stream()
	defer in.Close()
	tr, closer, err := tarstream.Read(context.Background(), in, sourcetest.TempDir(t), source.Limits{})
	sourcetest.Must(t, err)
	defer func() { sourcetest.Must(t, closer.Close()) }()
	if want := many + many/500 + 3; len(tr.Entries) != want {
		t.Errorf("%d entries, want %d", len(tr.Entries), want)
	}
	runtime.GC()
	var held runtime.MemStats
	runtime.ReadMemStats(&held)
	if held.HeapAlloc > 150<<20 {
		t.Errorf("%d bytes are held", held.HeapAlloc)
	}
	runtime.KeepAlive(tr)
	more := stream()
	defer more.Close()
	_, _, err = tarstream.Read(context.Background(), more, sourcetest.TempDir(t), source.Limits{Entries: many / 10})
	if !errors.Is(err, source.ErrLimit) {
		t.Errorf("over the limit: %v", err)
	}
}

package publish

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// system is a small operating system that passes the boot check: files by path; a value of "-> x" is a link.
type system map[string]string

func newSystem() system {
	const kernel = "6.12.1-cloud-amd64"
	modules := "usr/lib/modules/" + kernel + "/"
	s := system{
		"bin": "-> usr/bin", "sbin": "-> usr/sbin", "lib": "-> usr/lib", "usr/sbin/init": "-> /lib/systemd/systemd",
		"usr/lib/systemd/systemd": "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00",
		"usr/sbin/mkfs.ext4":      "mkfs",
		"etc/passwd":              "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\n",
		"etc/group":               "root:x:0:\nwww-data:x:33:\n",
		"etc/os-release":          "PRETTY_NAME=\"Test GNU/Linux 13\"\n",
		"boot/vmlinuz-" + kernel:  "image",
		modules + "modules.dep":   "",
		modules + "modules.builtin": "virtio_pci.ko\nvirtio_blk.ko\nvirtio_net.ko\nvmw_vsock_virtio_transport.ko\n" +
			"erofs.ko\noverlay.ko\ndm-mod.ko\ndm-verity.ko\next4.ko\n",
		"usr/share/weight": strings.Repeat("weight", 20_000), // so that small changes make deltas
		"usr/bin/server":   "version 1",
		"etc/server.conf":  "port 80",
	}
	s.install("server", "1")
	return s
}

func (s system) install(name, version string) {
	s["var/lib/dpkg/status"] += fmt.Sprintf("Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n\n", name, version)
}

// with returns a copy that differs in some files; an empty content removes one.
func (s system) with(changes ...string) system {
	other := maps.Clone(s)
	for i := 0; i < len(changes); i += 2 {
		if other[changes[i]] = changes[i+1]; changes[i+1] == "" {
			delete(other, changes[i])
		}
	}
	return other
}

func (s system) tar(t testing.TB) []byte {
	t.Helper()
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	for _, name := range slices.Sorted(maps.Keys(s)) {
		header := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(s[name])), ModTime: time.Unix(1_700_000_000, 0)}
		if target, ok := strings.CutPrefix(s[name], "-> "); ok {
			header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, target, 0
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, s[name]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return stream.Bytes()
}

// fakeSource is a source in memory.
type fakeSource struct {
	stream      []byte
	fingerprint string
	atPlan      bool
	opened      *atomic.Int32
	block       bool // Open waits for the end of its context
}

func (s system) source(t testing.TB) fakeSource {
	t.Helper()
	stream := s.tar(t)
	return fakeSource{stream: stream, fingerprint: fmt.Sprintf("%x", sha256.Sum256(stream)), opened: new(atomic.Int32)}
}

func (f fakeSource) Fingerprint(ctx context.Context) (string, error) { return f.fingerprint, ctx.Err() }
func (f fakeSource) ReadableAtPlan() bool                            { return f.atPlan }
func (f fakeSource) Open(ctx context.Context, _ source.Progress) (io.ReadCloser, error) {
	f.opened.Add(1)
	if f.block {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return io.NopCloser(bytes.NewReader(f.stream)), nil
}

func testKey(seed byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

// fakeModules stands for package bootimage.
func fakeModules(t *tree.Tree, kernelRelease string) ([]byte, error) {
	if _, ok := t.Lookup("usr/lib/modules/" + kernelRelease); !ok {
		return nil, errors.New("no modules")
	}
	return []byte("modules of " + kernelRelease), nil
}

func newPublisher(t testing.TB, s store.Store) *Publisher {
	t.Helper()
	return &Publisher{Store: s, Cache: t.TempDir(), Key: testKey(1), Modules: fakeModules}
}

func prepare(t testing.TB, p *Publisher, src source.Source) *Prepared {
	t.Helper()
	prepared, err := p.Prepare(t.Context(), Spec{Name: "os", Source: src}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return prepared
}

// publish prepares and publishes a system, and requires the store to be whole.
func publish(t testing.TB, p *Publisher, s system) *Prepared {
	t.Helper()
	prepared := prepare(t, p, s.source(t))
	if err := p.Publish(t.Context(), prepared, nil); err != nil {
		t.Fatal(err)
	}
	id, manifest, err := p.Newest(t.Context(), "os")
	if err != nil || id != prepared.ID {
		t.Fatalf("the newest release is %s (%v), want %s", id, err, prepared.ID)
	}
	requireWhole(t, p.Store.(*storetest.Store), manifest)
	return prepared
}

// requireWhole checks every byte that a release refers to.
func requireWhole(t testing.TB, s *storetest.Store, m *release.Manifest) {
	t.Helper()
	for _, l := range m.Layers {
		path, err := s.LayerPath(t.Context(), l.ID)
		if err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(layer.Verify(file, l), file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for _, blob := range blobFiles(m) {
		if _, err := s.GetBlob(t.Context(), blob); err != nil {
			t.Fatal(err)
		}
	}
}

func layerIDs(m *release.Manifest) []tree.Digest {
	var ids []tree.Digest
	for _, l := range m.Layers {
		ids = append(ids, l.ID)
	}
	return ids
}

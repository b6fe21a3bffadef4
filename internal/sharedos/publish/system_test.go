package publish

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// newSystem returns the system that most tests publish.
func newSystem() sourcetest.System { return sourcetest.NewSystem("6.12.1-cloud-amd64") }

// fakeSource is a source in memory.
type fakeSource struct {
	stream      []byte
	fingerprint string
	opened      *atomic.Int32
	block       bool // Open waits for the end of its context
}

func sourceOf(t testing.TB, s sourcetest.System) fakeSource {
	t.Helper()
	stream, err := s.Tar()
	must(t, err)
	return fakeSource{stream: stream, fingerprint: fmt.Sprintf("%x", sha256.Sum256(stream)), opened: new(atomic.Int32)}
}

func (f fakeSource) Fingerprint(ctx context.Context) (string, error) { return f.fingerprint, ctx.Err() }
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

func newPublisher(t testing.TB, s store.Store) *Publisher {
	t.Helper()
	return &Publisher{Store: s, Cache: t.TempDir(), Key: testKey(1), Modules: bootimage.Modules}
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
func publish(t testing.TB, p *Publisher, s sourcetest.System) *Prepared {
	t.Helper()
	prepared := prepare(t, p, sourceOf(t, s))
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

// requireWhole verifies all objects that a release refers to.
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

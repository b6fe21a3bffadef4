package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn/faultproxy"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// disturbed is a pool that is reached in two ways: through a proxy that disturbs, and past it.
type disturbed struct {
	t      *testing.T
	bed    *testbed.Testbed
	proxy  *faultproxy.Proxy
	config store.Config
	direct *store.Libvirt
}

func disturb(t *testing.T) *disturbed {
	t.Helper()
	bed := testbed.New(t)
	proxy, err := faultproxy.Start(t.Context(), filepath.Join(bed.Dir(), "proxy"), filepath.Join(bed.Dir(), "run", "libvirt-sock"))
	must(t, err)
	name := bed.Name("pool")
	d := &disturbed{t: t, bed: bed, proxy: proxy, config: store.Config{URI: bed.URI(), Pool: name, CreatePath: filepath.Join(bed.Dir(), name)}}
	d.direct, err = store.Open(t.Context(), d.config)
	must(t, err)
	t.Cleanup(func() {
		deadline := time.Now().Add(10 * time.Second)
		for d.proxy.Open() != 0 && time.Now().Before(deadline) {
			time.Sleep(20 * time.Millisecond)
		}
		if open := d.proxy.Open(); open != 0 {
			t.Errorf("%d connections are left open", open)
		}
		if err := errors.Join(d.direct.Close(), proxy.Close()); err != nil {
			t.Error(err)
		}
	})
	// A volume of its own keeps the pool from going with the last layer.
	_, _, err = d.direct.CreatePrivateDisk(t.Context(), "other", 1<<20)
	must(t, err)
	return d
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// through opens the pool on the proxy for one call, and closes it again.
func (d *disturbed) through(limit time.Duration, call func(context.Context, *store.Libvirt) error) error {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), limit)
	defer cancel()
	config := d.config
	config.URI = d.proxy.URI()
	s, err := store.Open(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(call(ctx, s), s.Close())
}

// requireAbsentOrComplete checks what the pool says of a layer, and returns whether it is there.
func (d *disturbed) requireAbsentOrComplete(layer release.Layer, data []byte) bool {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	path, err := d.direct.LayerPath(ctx, layer.ID)
	if errors.Is(err, store.ErrNotFound) {
		return false
	}
	must(d.t, err)
	d.requireBytes(path, data)
	return true
}

func (d *disturbed) requireBytes(path string, data []byte) {
	d.t.Helper()
	got, err := os.ReadFile(path)
	must(d.t, err)
	if !bytes.Equal(got, data) {
		d.t.Fatalf("%s is called complete and holds other bytes", path)
	}
}

// requireUploadable uploads a layer past the proxy, and requires that nothing else is left in the pool once it is swept.
func (d *disturbed) requireUploadable(layer release.Layer, data []byte) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	_, err := d.direct.PutLayer(ctx, layer, bytes.NewReader(data), nil)
	must(d.t, err)
	path, err := d.direct.LayerPath(ctx, layer.ID)
	must(d.t, err)
	d.requireBytes(path, data)
	_, err = d.direct.Sweep(ctx, nil)
	must(d.t, err)
	left, err := filepath.Glob(filepath.Join(d.config.CreatePath, "*"))
	must(d.t, err)
	if len(left) != 1 {
		d.t.Fatalf("left in the pool are %v", left)
	}
}

// smallLayer is a layer that takes more than three packets to send.
func smallLayer(seed byte) (release.Layer, []byte) { return layerOf(seed, 640<<10) }

// largeLayer is a layer that takes a moment to send.
func largeLayer(seed byte) (release.Layer, []byte) { return layerOf(seed, 24<<20) }

func layerOf(seed byte, size int64) (release.Layer, []byte) {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	return release.Layer{ID: tree.Sum(data), DataSize: size / 2, Size: size}, data
}

// messages are all that an undisturbed upload of a layer consists of.
func (d *disturbed) messages(layer release.Layer, data []byte) []faultproxy.Message {
	d.t.Helper()
	d.proxy.Disturb(nil)
	must(d.t, d.through(30*time.Second, func(ctx context.Context, s *store.Libvirt) error {
		_, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil)
		return err
	}))
	seen := d.proxy.Seen()
	d.requireUploadable(layer, data)
	return seen
}

func TestAnUploadThatIsCutAtAnyByteLeavesALayerThatIsAbsentOrComplete(t *testing.T) {
	d := disturb(t)
	layer, data := smallLayer(1)
	messages := d.messages(layer, data)
	if len(messages) < 20 {
		t.Fatalf("an upload is %d messages, which cannot be all of it", len(messages))
	}
	complete := 0
	for k, undisturbed := range messages {
		size := undisturbed.Size
		for _, after := range []int{0, 1 + rand.IntN(27), 28, size / 2, size - 1, size} {
			d.proxy.Disturb(func(m faultproxy.Message) faultproxy.Fate {
				return faultproxy.Fate{Cut: m.Index == k, After: after}
			})
			err := d.through(20*time.Second, func(ctx context.Context, s *store.Libvirt) error {
				_, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil)
				return err
			})
			if err != nil && !errors.Is(err, store.ErrUnreachable) {
				t.Errorf("%v, cut after %d bytes: got error %v, want %v", undisturbed, after, err, store.ErrUnreachable)
			}
			there := d.requireAbsentOrComplete(layer, data)
			if err == nil && !there {
				t.Fatalf("%v, cut after %d bytes: the upload succeeded and there is no layer", undisturbed, after)
			}
			if there {
				complete++
			}
			d.requireUploadable(layer, data)
		}
	}
	if complete == 0 {
		t.Error("no cut came after the layer was complete: the last messages were not reached")
	}
	t.Log(fmt.Sprint(len(messages), " messages, ", 6*len(messages), " cuts"))
}

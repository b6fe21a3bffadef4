package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
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
	uri    string
	config store.Config
	direct *connected
}

func disturb(t *testing.T) *disturbed {
	t.Helper()
	return disturbOn(t, testbed.New(t), "")
}

// disturbOn makes a pool on a testbed, in a directory of its own unless another one is given.
func disturbOn(t *testing.T, bed *testbed.Testbed, dir string) *disturbed {
	t.Helper()
	name := bed.Name("pool")
	if dir == "" {
		dir = filepath.Join(bed.Dir(), name)
	}
	proxy, err := faultproxy.Start(t.Context(), filepath.Join(bed.Dir(), name+".sock"),
		filepath.Join(bed.Dir(), "run", "libvirt-sock"))
	must(t, err)
	d := &disturbed{t: t, bed: bed, proxy: proxy, uri: bed.URI(), config: store.Config{Pool: name, CreatePath: dir}}
	d.direct, err = connect(t.Context(), d.uri, d.config)
	must(t, err)
	t.Cleanup(func() {
		deadline := time.Now().Add(40 * time.Second)
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
	_, err = d.direct.CreatePrivateDisk(t.Context(), "vm-other", 1<<20)
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
	s, err := connect(ctx, d.proxy.URI(), d.config)
	if err != nil {
		return err
	}
	return errors.Join(call(ctx, s.Libvirt), s.Close())
}

// put uploads a layer through the proxy.
func (d *disturbed) put(limit time.Duration, layer release.Layer, data []byte) error {
	d.t.Helper()
	return d.through(limit, func(ctx context.Context, s *store.Libvirt) error {
		_, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil)
		return err
	})
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

// requireUploadable uploads a layer past the proxy, and requires that nothing else is left in the
// pool once it is swept.
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

func random(seed byte, size int64) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(data)
	return data
}

func layerOf(seed byte, size int64) (release.Layer, []byte) {
	data := random(seed, size)
	return release.Layer{ID: tree.Sum(data), DataSize: size / 2, Size: size}, data
}

// messages are all that an undisturbed upload of a layer consists of.
func (d *disturbed) messages(layer release.Layer, data []byte) []faultproxy.Message {
	d.t.Helper()
	d.proxy.Disturb(nil)
	must(d.t, d.put(30*time.Second, layer, data))
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
			err := d.put(20*time.Second, layer, data)
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

func TestAnUploadThatFailsAtAnyMessageLeavesALayerThatIsAbsentOrComplete(t *testing.T) {
	d := disturb(t)
	layer, data := smallLayer(2)
	messages := d.messages(layer, data)
	failed := 0
	for k, undisturbed := range messages {
		d.proxy.Disturb(func(m faultproxy.Message) faultproxy.Fate {
			if m.Index != k {
				return faultproxy.Fate{}
			}
			return faultproxy.Fate{Fail: uint32(libvirt.ErrInternalError)}
		})
		err := d.put(20*time.Second, layer, data)
		if there := d.requireAbsentOrComplete(layer, data); err == nil && !there {
			t.Fatalf("%v, answered with an error: the upload succeeded and there is no layer", undisturbed)
		}
		if err != nil {
			failed++
			if !libvirtconn.Is(err, libvirt.ErrInternalError) {
				t.Errorf("%v, answered with an error: got %v", undisturbed, err)
			}
		}
		d.requireUploadable(layer, data)
	}
	if failed < len(messages)/2 {
		t.Errorf("of %d errors %d came through", len(messages), failed)
	}
}

// An answer that never comes ends with the context: libvirt gets five seconds more to end its stream.
func TestAnAnswerThatNeverComesHangsNothing(t *testing.T) {
	bed := testbed.New(t)
	layer, data := smallLayer(3)
	messages := disturbOn(t, bed, "").messages(layer, data)
	var last *faultproxy.Message
	for _, m := range messages {
		answer := m.From == faultproxy.Daemon
		// Of each kind the first, and the last of all: the reply to a call, to the opening of a stream, and its end.
		if !answer || last != nil && last.Procedure == m.Procedure && last.Kind == m.Kind &&
			m.Index != len(messages)-1 {
			continue
		}
		last = &m
		t.Run(strings.ReplaceAll(m.String(), "/", "."), func(t *testing.T) {
			t.Parallel()
			d := disturbOn(t, bed, "")
			d.proxy.Disturb(
				func(now faultproxy.Message) faultproxy.Fate { return faultproxy.Fate{Lose: now.Index == m.Index} })
			began := time.Now()
			err := d.put(2*time.Second, layer, data)
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s to end", took)
			}
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got error %v, want %v", err, context.DeadlineExceeded)
			}
			d.proxy.Disturb(nil)
			d.requireAbsentOrComplete(layer, data)
			d.requireUploadable(layer, data)
		})
	}
}

// A libvirt that refuses a stream does not read the rest of it, and the writer does not notice that.
func TestARefusalEndsAnUploadThatIsStuck(t *testing.T) {
	d := disturb(t)
	layer, data := largeLayer(11)
	streamed := 0
	d.proxy.Disturb(func(m faultproxy.Message) faultproxy.Fate {
		if m.From == faultproxy.Client && m.Kind == faultproxy.Stream {
			streamed++
		}
		if streamed != 3 {
			return faultproxy.Fate{}
		}
		streamed++
		return faultproxy.Fate{Fail: uint32(libvirt.ErrSystemError), Stall: 11 * time.Second}
	})
	began := time.Now()
	err := d.put(time.Minute, layer, data)
	if took := time.Since(began); !libvirtconn.Is(err, libvirt.ErrSystemError) || took > 10*time.Second {
		t.Errorf("after %s: got error %v, want libvirt's", took, err)
	}
	d.proxy.Disturb(nil)
	d.requireUploadable(layer, data)
}

func TestASlowLibvirtIsWaitedFor(t *testing.T) {
	d := disturb(t)
	layer, data := smallLayer(4)
	d.proxy.Disturb(func(m faultproxy.Message) faultproxy.Fate {
		return faultproxy.Fate{Delay: time.Duration(m.Index%3) * 10 * time.Millisecond}
	})
	must(t, d.put(time.Minute, layer, data))
	d.requireUploadable(layer, data)
}

// go-libvirt hangs when an event comes for a stream of events that is shut down; this client has none.
func TestEventsThatNobodyAskedForDisturbNothing(t *testing.T) {
	d := disturb(t)
	layer, data := smallLayer(5)
	d.proxy.Disturb(func(faultproxy.Message) faultproxy.Fate { return faultproxy.Fate{Event: true} })
	must(t, d.put(30*time.Second, layer, data))
	must(t, d.through(30*time.Second, func(ctx context.Context, s *store.Libvirt) error {
		_, err := s.Volumes(ctx)
		return err
	}))
	d.requireUploadable(layer, data)
}

// go-libvirt's connection hangs when the receiver of a download fails; here a download ends with its context.
func TestADownloadThatIsGivenUpHangsNothing(t *testing.T) {
	d := disturb(t)
	data := random(6, 8<<20)
	blob := release.Blob{Digest: tree.Sum(data), Size: int64(len(data))}
	must(t, d.direct.PutBlob(t.Context(), blob, bytes.NewReader(data), nil))
	d.proxy.Disturb(func(m faultproxy.Message) faultproxy.Fate {
		slow := m.From == faultproxy.Daemon && m.Kind == faultproxy.Stream
		return faultproxy.Fate{Delay: map[bool]time.Duration{true: 100 * time.Millisecond}[slow]}
	})
	began := time.Now()
	err := d.through(time.Second, func(ctx context.Context, s *store.Libvirt) error {
		_, err := s.GetBlob(ctx, blob)
		return err
	})
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 10*time.Second {
		t.Errorf("after %s: got error %v, want %v", took, err, context.DeadlineExceeded)
	}
	got, err := d.direct.GetBlob(t.Context(), blob)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("afterwards the blob has %d bytes, %v", len(got), err)
	}
}

// libvirtd 11.3 crashes when the disk is full in the middle of a stream, and go-libvirt's own
// upload never returns when that shows at its end: so what a layer takes is reserved before.
func TestAFullDiskFailsTheUploadAndLeavesNoLayer(t *testing.T) {
	full := t.TempDir()
	must(t, unix.Mount("tmpfs", full, "tmpfs", 0, "size=8m,mode=0755"))
	t.Cleanup(func() { must(t, unix.Unmount(full, unix.MNT_DETACH)) })
	d := disturbOn(t, testbed.New(t), filepath.Join(full, "pool"))
	large, tooMuch := largeLayer(8)
	small, fits := smallLayer(8)
	for range 2 {
		began := time.Now()
		_, err := d.direct.PutLayer(t.Context(), large, bytes.NewReader(tooMuch), nil)
		var answer libvirt.Error
		if took := time.Since(began); !errors.As(err, &answer) || took > 15*time.Second {
			t.Fatalf("after %s: got error %v, want libvirt's", took, err)
		}
		if d.requireAbsentOrComplete(large, tooMuch) {
			t.Fatal("a layer that did not fit is called complete")
		}
		t.Log(err)
	}
	_, err := d.direct.Sweep(t.Context(), nil)
	must(t, err)
	d.requireUploadable(small, fits)
}

// trigger reads as data, and calls at once when a place in it is first read.
type trigger struct {
	data []byte
	at   int64
	once sync.Once
	call func()
}

func (r *trigger) ReadAt(p []byte, off int64) (int, error) {
	if off <= r.at && r.at < off+int64(len(p)) && len(p) > store.HeadSize {
		r.once.Do(r.call)
	}
	return bytes.NewReader(r.data).ReadAt(p, off)
}

func TestALibvirtThatRestartsInTheMiddleOfAnUpload(t *testing.T) {
	d := disturb(t)
	layer, data := largeLayer(9)
	for _, at := range []int64{store.HeadSize, 12 << 20, int64(len(data)) - 1} {
		restart := func() { must(t, errors.Join(d.bed.StopLibvirt(t.Context()), d.bed.StartLibvirt(t.Context()))) }
		_, err := d.direct.PutLayer(t.Context(), layer, &trigger{data: data, at: at, call: restart}, nil)
		if !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("at %d: got error %v, want %v", at, err, store.ErrUnreachable)
		}
		if d.requireAbsentOrComplete(layer, data) {
			t.Errorf("at %d: a layer of which the end was never sent is called complete", at)
		}
		d.requireUploadable(layer, data)
	}
}

func TestProcessesThatUploadOneLayerAtOnceAllSucceed(t *testing.T) {
	d := disturb(t)
	layer, data := largeLayer(10)
	var processes []*exec.Cmd
	for range 3 {
		processes = append(processes, d.uploading(10))
	}
	_, err := d.direct.PutLayer(t.Context(), layer, bytes.NewReader(data), nil)
	must(t, err)
	for _, process := range processes {
		must(t, process.Wait())
	}
	if !d.requireAbsentOrComplete(layer, data) {
		t.Error("there is no layer")
	}
	d.requireUploadable(layer, data)
}

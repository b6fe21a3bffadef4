package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// command runs a command on this machine.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// A pool of type "fs": a file system of its own on a block device.
func TestAPoolOnAFileSystemOfItsOwnKeepsTheContract(t *testing.T) {
	dir := t.TempDir()
	image, target := filepath.Join(dir, "image"), filepath.Join(dir, "pool")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 256<<20))
	must(t, os.Mkdir(target, 0o755))
	command(t, "mkfs.ext4", "-q", image)
	device := command(t, "losetup", "--find", "--show", image)
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	must(t, unix.Mount(device, target, "ext4", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	mountedContract(t, target, "fs", "--source-dev", device, "--source-format", "ext4")
}

// A pool of type "netfs": what a server exports. Many a kernel has no NFS, so a file system in
// memory is mounted in its name, as an administrator may have mounted the export before.
func TestAPoolOnAnExportKeepsTheContract(t *testing.T) {
	target := t.TempDir()
	must(t, unix.Mount("localhost:/export", target, "tmpfs", 0, "size=256m,mode=0755"))
	t.Cleanup(func() { must(t, unix.Unmount(target, unix.MNT_DETACH)) })
	mountedContract(t, target, "netfs", "--source-host", "localhost", "--source-path", "/export",
		"--source-format", "nfs")
}

// mountedContract checks the contract on a pool whose source is mounted at target.
func mountedContract(t *testing.T, target, kind string, source ...string) {
	t.Helper()
	bed := testbed.New(t)
	name := bed.Name("pool")
	bed.Virsh(t, append([]string{"pool-define-as", name, kind, "--target", target}, source...)...)
	bed.Virsh(t, "pool-start", name)
	storetest.Contract(t, func(t *testing.T) store.Store {
		left, err := filepath.Glob(filepath.Join(target, "*"))
		must(t, err)
		for _, path := range left {
			must(t, os.RemoveAll(path))
		}
		bed.Virsh(t, "pool-refresh", name)
		s, err := connect(t.Context(), bed.URI(), store.Config{Pool: name})
		must(t, err)
		return s
	})
}

// logical makes a pool whose volumes are devices. It returns its testbed and its name, too.
func logical(t *testing.T, stale []byte) (s *connected, bed *testbed.Testbed, pool string) {
	t.Helper()
	bed = testbed.New(t)
	pool, _ = bed.LogicalPool(t, stale)
	s, err := connect(t.Context(), bed.URI(), store.Config{Pool: pool})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s, bed, pool
}

func TestAPoolOfBlockDevicesKeepsLayersBlobsAndRecords(t *testing.T) {
	// What was there before is a record of its own, at every place at which one could be.
	old := make([]byte, 1<<20)
	stale := tree.Sum([]byte("what was deleted"))
	copy(old, fmt.Sprintf("sharedos-record 99 %d %s\n%s\n", len(stale.String())+1,
		tree.Sum([]byte(stale.String()+"\n")), stale))
	s, bed, pool := logical(t, old)
	ctx := t.Context()

	layer, data := smallLayer(20)
	if _, err := s.LayerPath(ctx, layer.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an absent layer: %v", err)
	}
	if _, err := s.PutLayer(ctx, layer, &cutAt{data, 300 << 10}, nil); !errors.Is(err, errCutAt) {
		t.Errorf("a torn upload: %v", err)
	}
	if _, err := s.LayerPath(ctx, layer.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a torn layer: %v", err)
	}
	for _, want := range []bool{true, false} {
		if uploaded, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil); err != nil || uploaded != want {
			t.Errorf("uploaded %v, want %v: %v", uploaded, want, err)
		}
	}
	path, err := s.LayerPath(ctx, layer.ID)
	must(t, err)
	got, err := os.ReadFile(path)
	must(t, err)
	if len(got) != 4<<20 || !bytes.Equal(got[:len(data)], data) {
		t.Errorf("the layer's volume has %d bytes, and others than were put there", len(got))
	}

	text := []byte("a contents list")
	blob := release.Blob{Digest: tree.Sum(text), Size: int64(len(text))}
	must(t, s.PutBlob(ctx, blob, bytes.NewReader(text), nil))
	if got, err := s.GetBlob(ctx, blob); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the blob came back as %q, %v", got, err)
	}
	requireRecords(t, ctx, s)
	// Made, and cut off before anything was written: what was there before is not its content.
	bed.Virsh(t, "vol-create-as", pool, "head-base-torn", "2MiB")
	if got, err := s.History(ctx, release.Base, "torn"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a torn history is %v, %v", got, err)
	}

	swept, err := s.Sweep(ctx, nil)
	must(t, err)
	if len(swept) != 2 {
		t.Errorf("swept %v", swept)
	}
}

// requireRecords writes a history again and again, and reads it.
func requireRecords(t *testing.T, ctx context.Context, s store.Heads) {
	t.Helper()
	ids := []tree.Digest{tree.Sum([]byte("1")), tree.Sum([]byte("2")), tree.Sum([]byte("3"))}
	for range 2 {
		if got, err := s.History(ctx, release.Base, "os"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("an absent history is %v, %v", got, err)
		}
		for i := range ids {
			must(t, s.SetHistory(ctx, release.Base, "os", store.HistoryOf(ids[:i+1]...)))
			if got, err := s.History(ctx, release.Base, "os"); err != nil || len(got.Releases) != i+1 {
				t.Errorf("a history of %d is %v, %v", i+1, got, err)
			}
		}
		must(t, s.SetHistory(ctx, release.Base, "os", store.History{}))
	}
}

// libvirt takes for the size of a volume that it has just made that of the last one of all.
func TestAPoolOfZFSVolumesKeepsLayersBlobsAndRecords(t *testing.T) {
	bed := testbed.New(t)
	ctx := t.Context()
	s, err := connect(ctx, bed.URI(), store.Config{Pool: bed.ZFSPool(t)})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	for _, disk := range []struct {
		name string
		size int64
	}{{"zzz", 1 << 30}, {"web", 65 << 20}, {"web", 65 << 20}} {
		_, err := s.CreatePrivateDisk(ctx, "vm-"+disk.name, disk.size)
		must(t, err)
		if made, err := s.PrivateDisk(ctx, "vm-"+disk.name); err != nil || made.Capacity != disk.size {
			t.Errorf("disk %s is %+v, %v", disk.name, made, err)
		}
	}
	must(t, s.DeletePrivateDisk(ctx, "vm-zzz"))
	layer, data := layerOf(21, 136<<10)
	for _, want := range []bool{true, false} {
		if uploaded, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil); err != nil || uploaded != want {
			t.Errorf("uploaded %v, want %v: %v", uploaded, want, err)
		}
	}
	path, err := s.LayerPath(ctx, layer.ID)
	must(t, err)
	if got, err := os.ReadFile(path); err != nil || !bytes.HasPrefix(got, data) {
		t.Errorf("the layer's volume has %d bytes, and others than were put there: %v", len(got), err)
	}
	text := []byte("a contents list")
	blob := release.Blob{Digest: tree.Sum(text), Size: int64(len(text))}
	must(t, s.PutBlob(ctx, blob, bytes.NewReader(text), nil))
	if got, err := s.GetBlob(ctx, blob); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the blob came back as %q, %v", got, err)
	}
	requireRecords(t, ctx, s)
	_, unlock, err := s.Lock(ctx, store.Exclusive, func(string) {})
	must(t, err)
	must(t, unlock())
	if swept, err := s.Sweep(ctx, nil); err != nil || len(swept) != 2 {
		t.Errorf("swept %v, %v", swept, err)
	}
}

func TestAPoolThatRoundsUpKeepsThePrivateDiskThatItMade(t *testing.T) {
	s, _, _ := logical(t, []byte("what was there before"))
	path, err := s.CreatePrivateDisk(t.Context(), "vm-web", 65<<20)
	must(t, err)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("its own"), 1<<20)
	must(t, errors.Join(err, file.Close()))
	_, err = s.CreatePrivateDisk(t.Context(), "vm-web", 65<<20)
	must(t, err)
	disk, err := s.PrivateDisk(t.Context(), "vm-web")
	if err != nil || disk.Capacity != 68<<20 {
		t.Errorf("the private disk is %+v, %v", disk, err)
	}
	data, err := os.ReadFile(disk.Path)
	if err != nil || len(bytes.Trim(data[:1<<20], "\x00")) != 0 || !bytes.HasPrefix(data[1<<20:], []byte("its own")) {
		t.Errorf("it begins with what was there before, or has lost what was written to it: %v", err)
	}
	// libvirt cannot grow volumes of this type.
	if _, err := s.CreatePrivateDisk(t.Context(), "vm-web", 128<<20); err == nil ||
		!strings.Contains(err.Error(), "grow volume") {
		t.Errorf("growing it: %v", err)
	}
	must(t, s.DeletePrivateDisk(t.Context(), "vm-web"))
	if _, err := s.PrivateDisk(t.Context(), "vm-web"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after its deletion: %v", err)
	}
}

// cutAt reads as data up to a place.
type cutAt struct {
	data []byte
	at   int64
}

var errCutAt = errors.New("the content ends here")

func (c *cutAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > c.at {
		return 0, errCutAt
	}
	return bytes.NewReader(c.data).ReadAt(p, off)
}

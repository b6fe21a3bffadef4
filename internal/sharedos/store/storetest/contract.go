package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Contract checks what every Store promises. open returns an empty Store for each part.
func Contract(t *testing.T, open func(t *testing.T) store.Store) {
	opened := func(t *testing.T) store.Store {
		s := open(t)
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		})
		return s
	}
	Objects(t, func(t *testing.T) store.Objects { return opened(t) })
	Heads(t, func(t *testing.T) store.Heads { return opened(t) })
	Disks(t, func(t *testing.T) store.Disks { return opened(t) })
	Locks(t, func(t *testing.T) store.Locks { return opened(t) })
	run(t, opened, []part[store.Store]{
		{"a sweep deletes objects that are not to be kept, and nothing else", sweep},
		{"locks are not listed", locksAreNotListed},
		{"a cancelled context ends every call", cancelled},
	})
}

// Objects checks what every keeper of objects promises. open returns an empty one for each part.
func Objects(t *testing.T, open func(t *testing.T) store.Objects) {
	run(t, open, []part[store.Objects]{
		{"a layer is uploaded once and is at its path", layerOnce},
		{"a torn layer is absent, and is uploaded again", layerTorn},
		{"two uploads of one layer both succeed", layerTwice},
		{"a layer of another size than its volume is uploaded again", layerResized},
		{"an impossible layer is refused", layerImpossible},
		{"a damaged layer is found when it is verified", layerDamaged},
		{"a blob of any size is read as it was stored", blobs},
		{"a damaged blob is corrupt", blobDamaged},
		{"a torn blob is absent", blobTorn},
		{"a manifest is stored, read and replaced", releases},
	})
}

// Heads checks what every keeper of histories promises. open returns an empty one for each part.
func Heads(t *testing.T, open func(t *testing.T) store.Heads) {
	run(t, open, []part[store.Heads]{{"a history is replaced, listed and removed", histories}})
}

// Disks checks what every keeper of private disks promises. open returns an empty one for each part.
func Disks(t *testing.T, open func(t *testing.T) store.Disks) {
	run(t, open, []part[store.Disks]{
		{"a private disk is sparse, grows, never shrinks and is deleted", privateDisks},
		{"a further disk is made in a format, grows, never shrinks and is deleted", furtherDisks},
	})
}

// Locks checks what all locks promise. open returns ones that nobody holds for each part.
func Locks(t *testing.T, open func(t *testing.T) store.Locks) {
	run(t, open, []part[store.Locks]{{"locks exclude each other", locks}})
}

// part is a part of a contract.
type part[S any] struct {
	name string
	run  func(*testing.T, context.Context, S)
}

func run[S any](t *testing.T, open func(t *testing.T) S, parts []part[S]) {
	for _, part := range parts {
		t.Run(part.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			part.run(t, ctx, open(t))
		})
	}
}

// random returns size bytes that depend on the seed alone.
func random(seed byte, size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed, 1}).Read(data)
	return data
}

func layerOf(data []byte) release.Layer {
	return release.Layer{ID: tree.Sum(data),
		DataSize: int64(len(data)) / 2 / store.HeadSize * store.HeadSize, Size: int64(len(data))}
}

func blobOf(data []byte) release.Blob {
	return release.Blob{Digest: tree.Sum(data), Size: int64(len(data))}
}

// cut reads its bytes up to an offset, and fails after that.
type cut struct {
	data  []byte
	after int64
}

var errCut = errors.New("the content ends here")

func (c cut) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > c.after {
		return 0, errCut
	}
	return bytes.NewReader(c.data).ReadAt(p, off)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustBe(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

// mustHold compares the first bytes of a volume with what was stored.
func mustHold(t *testing.T, path string, data []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	must(t, err)
	if len(got) < len(data) || !bytes.Equal(got[:len(data)], data) {
		t.Fatalf("%s holds other bytes than were put there", path)
	}
}

// mustHaveLayer compares the first bytes of a layer's volume with what was stored.
func mustHaveLayer(t *testing.T, ctx context.Context, s store.Objects, layer release.Layer, data []byte) {
	t.Helper()
	path, err := s.LayerPath(ctx, layer.ID)
	must(t, err)
	mustHold(t, path, data)
}

func layerOnce(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(1, 6<<20)
	layer := layerOf(data)
	_, err := s.LayerPath(ctx, layer.ID)
	mustBe(t, err, store.ErrNotFound)

	var seen []int64
	uploaded, err := s.PutLayer(ctx, layer, bytes.NewReader(data), func(done, total int64) {
		if total != layer.Size || done > total {
			t.Errorf("progress tells %d of %d", done, total)
		}
		seen = append(seen, done)
	})
	must(t, err)
	if !uploaded {
		t.Error("the first upload says that nothing was uploaded")
	}
	if !slices.IsSorted(seen) || len(seen) == 0 || seen[len(seen)-1] != layer.Size {
		t.Errorf("progress went %v", seen)
	}
	mustHaveLayer(t, ctx, s, layer, data)

	uploaded, err = s.PutLayer(ctx, layer, cut{}, nil)
	must(t, err)
	if uploaded {
		t.Error("a layer that was there already was uploaded again")
	}
}

func layerTorn(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(2, 6<<20)
	layer := layerOf(data)
	_, err := s.PutLayer(ctx, layer, cut{data, 5 << 20}, nil)
	mustBe(t, err, errCut)
	_, err = s.LayerPath(ctx, layer.ID)
	mustBe(t, err, store.ErrNotFound)

	uploaded, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil)
	must(t, err)
	if !uploaded {
		t.Error("the torn layer was not uploaded again")
	}
	mustHaveLayer(t, ctx, s, layer, data)
}

func layerTwice(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(3, 8<<20)
	layer := layerOf(data)
	var wait sync.WaitGroup
	for i := range 3 {
		wait.Go(func() {
			if _, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil); err != nil {
				t.Errorf("upload %d: %v", i, err)
			}
			if _, err := s.LayerPath(ctx, layer.ID); err != nil {
				t.Errorf("after upload %d: %v", i, err)
			}
		})
	}
	wait.Wait()
	mustHaveLayer(t, ctx, s, layer, data)
}

func layerResized(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(4, 1<<20)
	layer := layerOf(data)
	short := layer
	short.Size -= store.HeadSize
	_, err := s.PutLayer(ctx, short, bytes.NewReader(data), nil)
	must(t, err)
	uploaded, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil)
	must(t, err)
	if !uploaded {
		t.Error("a volume that is too short was taken for the layer")
	}
	mustHaveLayer(t, ctx, s, layer, data)
}

func layerImpossible(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(5, 1<<20)
	good := layerOf(data)
	for name, spoil := range map[string]func(*release.Layer){
		"no id":               func(l *release.Layer) { l.ID = tree.Digest{} },
		"no size":             func(l *release.Layer) { l.Size = 0 },
		"negative size":       func(l *release.Layer) { l.Size = -4096 },
		"not in blocks":       func(l *release.Layer) { l.Size-- },
		"more data than size": func(l *release.Layer) { l.DataSize = l.Size + 4096 },
	} {
		layer := good
		spoil(&layer)
		if _, err := s.PutLayer(ctx, layer, bytes.NewReader(data), nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := s.PutLayer(ctx, good, bytes.NewReader(make([]byte, len(data))), nil); err == nil {
		t.Error("a layer of zeros, which would read as torn: accepted")
	}
	if _, err := s.PutLayer(ctx, good, bytes.NewReader(data[:len(data)-1]), nil); !errors.Is(err, io.EOF) &&
		!errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("content that ends early: got error %v", err)
	}
}

func layerDamaged(t *testing.T, ctx context.Context, s store.Objects) {
	file, err := os.Create(filepath.Join(t.TempDir(), "layer"))
	must(t, err)
	defer func() { _ = file.Close() }()
	made, err := layer.Write(ctx, &tree.Tree{Entries: []tree.Entry{
		{Path: tree.Root, Type: tree.Directory, Mode: 0o755},
		{Path: "a", Type: tree.Directory, Mode: 0o755, Xattrs: map[string]string{"user.a": strings.Repeat("a", 9000)}},
	}}, file)
	must(t, err)
	mustBe(t, s.VerifyLayer(ctx, made), store.ErrNotFound)
	data, err := os.ReadFile(file.Name())
	must(t, err)
	_, err = s.PutLayer(ctx, made, bytes.NewReader(data), nil)
	must(t, err)
	must(t, s.VerifyLayer(ctx, made))
	layerRead(t, ctx, s, made, data)
	path, err := s.LayerPath(ctx, made.ID)
	must(t, err)
	// Nobody knows whether what somebody else has put there is right.
	other, short := made, made
	other.ID, short.ID = tree.Sum([]byte("another layer")), tree.Sum([]byte("a short layer"))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), store.LayerName(other.ID)), data, 0o644))
	mustBe(t, s.VerifyLayer(ctx, other), store.ErrCorrupt)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(path), store.LayerName(short.ID)), data[:store.HeadSize], 0o644))
	mustBe(t, s.VerifyLayer(ctx, short), store.ErrCorrupt)
}

// layerRead reads a layer of some content in pieces.
func layerRead(t *testing.T, ctx context.Context, s store.Objects, of release.Layer, content []byte) {
	t.Helper()
	mustBe(t, s.ReadLayer(ctx, release.Layer{ID: tree.Sum([]byte("no layer")), Size: of.Size},
		func(io.ReaderAt) error { return nil }), store.ErrNotFound)
	failed := errors.New("failed")
	mustBe(t, s.ReadLayer(ctx, of, func(io.ReaderAt) error { return failed }), failed)
	must(t, s.ReadLayer(ctx, of, func(r io.ReaderAt) error {
		got, err := io.ReadAll(io.NewSectionReader(r, 0, of.Size+1))
		if err != nil || !bytes.Equal(got, content[:of.Size]) {
			t.Errorf("it was read as %d other bytes, %v", len(got), err)
		}
		piece := make([]byte, 5000)
		if n, err := r.ReadAt(piece, of.Size-100); n != 100 || !errors.Is(err, io.EOF) {
			t.Errorf("over its end: %d bytes, %v", n, err)
		}
		return nil
	}))
}

func blobs(t *testing.T, ctx context.Context, s store.Objects) {
	for i, size := range []int{1, 511, 4095, 4096, 4097, 100_001, 3 << 20} {
		data := random(byte(10+i), size)
		data[0] |= 1
		blob := blobOf(data)
		_, err := s.GetBlob(ctx, blob)
		mustBe(t, err, store.ErrNotFound)
		_, err = s.BlobPath(ctx, blob.Digest)
		mustBe(t, err, store.ErrNotFound)
		for range 2 {
			must(t, s.PutBlob(ctx, blob, bytes.NewReader(data), nil))
		}
		got, err := s.GetBlob(ctx, blob)
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Errorf("blob of %d bytes came back different", size)
		}
		path, err := s.BlobPath(ctx, blob.Digest)
		must(t, err)
		mustHold(t, path, data)
	}
	if err := s.PutBlob(ctx, release.Blob{Digest: tree.Sum(nil)}, bytes.NewReader(nil), nil); err == nil {
		t.Error("an empty blob was accepted")
	}
}

func blobDamaged(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(20, 200_000)
	blob := blobOf(data)
	must(t, s.PutBlob(ctx, blob, bytes.NewReader(data), nil))
	path, err := s.BlobPath(ctx, blob.Digest)
	must(t, err)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte{^data[150_000]}, 150_000)
	must(t, errors.Join(err, file.Close()))
	_, err = s.GetBlob(ctx, blob)
	mustBe(t, err, store.ErrCorrupt)
}

func blobTorn(t *testing.T, ctx context.Context, s store.Objects) {
	data := random(21, 3<<20)
	blob := blobOf(data)
	err := s.PutBlob(ctx, blob, cut{data, 2 << 20}, nil)
	mustBe(t, err, errCut)
	_, err = s.GetBlob(ctx, blob)
	mustBe(t, err, store.ErrNotFound)
	_, err = s.BlobPath(ctx, blob.Digest)
	mustBe(t, err, store.ErrNotFound)
	must(t, s.PutBlob(ctx, blob, bytes.NewReader(data), nil))
	_, err = s.GetBlob(ctx, blob)
	must(t, err)
}

func releases(t *testing.T, ctx context.Context, s store.Objects) {
	id := tree.Sum([]byte("a manifest"))
	_, err := s.GetManifest(ctx, id)
	mustBe(t, err, store.ErrNotFound)
	for _, signed := range []string{"short\n", strings.Repeat("a long manifest\n", 20_000), "signed by another key\n",
		"signed by another key\n"} {
		must(t, s.PutManifest(ctx, id, []byte(signed)))
		got, err := s.GetManifest(ctx, id)
		must(t, err)
		if string(got) != signed {
			t.Errorf("the release of %d bytes came back as %d other bytes", len(signed), len(got))
		}
	}
	if err := s.PutManifest(ctx, id, nil); err == nil {
		t.Error("an empty manifest was accepted")
	}
	if err := s.PutManifest(ctx, id, make([]byte, store.MaxRecord+1)); err == nil {
		t.Error("a manifest over the limit was accepted")
	}
}

func histories(t *testing.T, ctx context.Context, s store.Heads) {
	var ids []tree.Digest
	for i := range 200 {
		ids = append(ids, tree.Sum([]byte{byte(i)}))
	}
	_, err := s.History(ctx, release.Base, "debian-13")
	mustBe(t, err, store.ErrNotFound)
	if all, err := s.Histories(ctx); err != nil || len(all) != 0 {
		t.Errorf("histories of an empty pool: %v, %v", all, err)
	}

	timed := store.HistoryOf(ids[5:7]...)
	timed.Retain, timed.Releases[0].Published = 3, time.Date(2026, 11, 25, 1, 2, 3, 0, time.UTC)
	timed.Owner, timed.Making = "6ba7b810-9dad-41d1",
		&store.Making{Operator: "a+/b=", Process: "m.1.2", Began: timed.Releases[0].Published}
	timed.Users, timed.Groups = map[string]uint32{"_apt": 42, "redis": 101}, map[string]uint32{"redis": 4294967295}
	for _, want := range []store.History{store.HistoryOf(ids[:1]...), store.HistoryOf(ids[:2]...),
		store.HistoryOf(ids...), timed} {
		must(t, s.SetHistory(ctx, release.Base, "debian-13", want))
		got, err := s.History(ctx, release.Base, "debian-13")
		must(t, err)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("a history came back as another one (-want +got):\n%s", diff)
		}
	}
	must(t, s.SetHistory(ctx, release.Component, "debian-13", store.HistoryOf(ids[:3]...)))
	all, err := s.Histories(ctx)
	must(t, err)
	want := map[store.Named]store.History{
		{Kind: release.Base, Name: "debian-13"}:      timed,
		{Kind: release.Component, Name: "debian-13"}: store.HistoryOf(ids[:3]...),
	}
	if diff := cmp.Diff(want, all); diff != "" {
		t.Errorf("histories (-want +got):\n%s", diff)
	}

	for range 2 {
		must(t, s.SetHistory(ctx, release.Base, "debian-13", store.History{}))
	}
	_, err = s.History(ctx, release.Base, "debian-13")
	mustBe(t, err, store.ErrNotFound)
	for _, bad := range []string{"", "a/b", "..", "a b", "-a", strings.Repeat("a", 200)} {
		if err := s.SetHistory(ctx, release.Base, bad, store.HistoryOf(ids[0])); err == nil {
			t.Errorf("the name %q was accepted", bad)
		}
	}
	if err := s.SetHistory(ctx, "kernel", "a", store.HistoryOf(ids[0])); err == nil {
		t.Error("an unknown kind was accepted")
	}
	if err := s.SetHistory(ctx, release.Base, "a", store.HistoryOf(ids[0], ids[0])); err == nil {
		t.Error("a history with a release twice was accepted")
	}
}

func privateDisks(t *testing.T, ctx context.Context, s store.Disks) {
	name, err := store.DiskName("web-1", "6ba7b810-9dad-41d1-80b4-00c04fd430c8")
	must(t, err)
	_, err = s.PrivateDisk(ctx, name)
	mustBe(t, err, store.ErrNotFound)
	must(t, s.DeletePrivateDisk(ctx, name))

	path, err := s.CreatePrivateDisk(ctx, name, 1<<30)
	must(t, err)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("the VM's own"), 1<<20)
	must(t, errors.Join(err, file.Close()))

	again, err := s.CreatePrivateDisk(ctx, name, 2<<30)
	must(t, err)
	if again != path {
		t.Errorf("a grown disk moved from %s to %s", path, again)
	}
	disk, err := s.PrivateDisk(ctx, name)
	must(t, err)
	if disk.Name != name || disk.Path != path || disk.Capacity != 2<<30 {
		t.Errorf("the grown disk is %+v", disk)
	}
	if disk.Allocation == 0 || disk.Allocation > 1<<20 {
		t.Errorf("a disk with 12 bytes written takes %d", disk.Allocation)
	}
	data := make([]byte, 12)
	file, err = os.Open(path)
	must(t, err)
	_, err = file.ReadAt(data, 1<<20)
	must(t, errors.Join(err, file.Close()))
	if string(data) != "the VM's own" {
		t.Error("growing the disk lost what was on it")
	}

	_, err = s.CreatePrivateDisk(ctx, name, 1<<30)
	mustBe(t, err, store.ErrShrink)
	must(t, s.DeletePrivateDisk(ctx, name))
	_, err = s.PrivateDisk(ctx, name)
	mustBe(t, err, store.ErrNotFound)
	for _, bad := range []string{"", "vm-", "vm-a/b", "vm-..", "vm-a\nb", "web-1",
		store.LayerName(tree.Sum(nil)), "head-base-a"} {
		if _, err := s.CreatePrivateDisk(ctx, bad, 1<<20); err == nil {
			t.Errorf("the name %q was accepted", bad)
		}
	}
}

func furtherDisks(t *testing.T, ctx context.Context, s store.Disks) {
	const uuid = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
	if _, err := store.FurtherDiskName("web.1", uuid, "a.b"); err == nil {
		t.Error("the name of a disk with a dot was accepted")
	}
	for _, format := range []string{"raw", "qcow2"} {
		name, err := store.FurtherDiskName("web.1", uuid, "data-"+format)
		must(t, err)
		if parsed, ok := store.ParseVolumeName(name); !ok || parsed.VM != "web.1" || parsed.Disk != "data-"+format ||
			!store.FurtherDiskIsOf(name, uuid) {
			t.Errorf("%s is read as %+v", name, parsed)
		}
		_, _, err = s.FindVolume(ctx, "", name)
		mustBe(t, err, store.ErrNotFound)
		must(t, s.DeleteDisk(ctx, "", name))
		path, err := s.CreateDisk(ctx, "", name, 1<<30, format, false)
		must(t, err)
		grown, err := s.CreateDisk(ctx, "", name, 2<<30, format, false)
		must(t, err)
		found, has, err := s.FindVolume(ctx, "", name)
		must(t, err)
		if has != format || found.Capacity != 2<<30 || found.Path != path || grown != path || found.Allocation > 1<<20 {
			t.Errorf("the grown disk is %+v of format %s", found, has)
		}
		_, err = s.CreateDisk(ctx, "", name, 4<<30, format, true)
		must(t, err)
		if found, _, err := s.FindVolume(ctx, "", name); err != nil || found.Capacity != 2<<30 {
			t.Errorf("a file that QEMU has open was grown to %d bytes: %v", found.Capacity, err)
		}
		_, err = s.CreateDisk(ctx, "", name, 1<<30, format, false)
		mustBe(t, err, store.ErrShrink)
		other := map[string]string{"raw": "qcow2", "qcow2": "raw"}[format]
		_, err = s.CreateDisk(ctx, "", name, 2<<30, other, false)
		mustBe(t, err, store.ErrFormat)
		for range 2 {
			must(t, s.DeleteDisk(ctx, "", name))
		}
		_, _, err = s.FindVolume(ctx, "", name)
		mustBe(t, err, store.ErrNotFound)
		_, err = s.CreateDisk(ctx, "no-such-pool", name, 1<<30, format, false)
		mustBe(t, err, store.ErrAbsentPool)
	}
	_, err := s.RoomIn(ctx, "no-such-pool")
	mustBe(t, err, store.ErrAbsentPool)
	private, err := store.DiskName("web.1", uuid)
	must(t, err)
	for _, bad := range []string{"", "disk-a", private, private + ".data", "disk-web." + uuid[:8] + ".data",
		store.LayerName(tree.Sum(nil))} {
		if _, err := s.CreateDisk(ctx, "", bad, 1<<20, "raw", false); err == nil {
			t.Errorf("the name %q was accepted", bad)
		}
		if err := s.DeleteDisk(ctx, "", bad); err == nil {
			t.Errorf("a volume of the name %q would have been deleted", bad)
		}
	}
}

func sweep(t *testing.T, ctx context.Context, s store.Store) {
	var data [4][]byte
	for i := range data {
		data[i] = random(byte(30+i), 1<<20)
	}
	for _, d := range data[:2] {
		_, err := s.PutLayer(ctx, layerOf(d), bytes.NewReader(d), nil)
		must(t, err)
	}
	for _, d := range data[2:] {
		must(t, s.PutBlob(ctx, blobOf(d), bytes.NewReader(d), nil))
	}
	kept, gone := tree.Sum([]byte("kept")), tree.Sum([]byte("gone"))
	must(t, s.PutManifest(ctx, kept, []byte("kept\n")))
	must(t, s.PutManifest(ctx, gone, []byte("gone\n")))
	must(t, s.SetHistory(ctx, release.Base, "debian-13", store.HistoryOf(kept)))
	disk := "vm-web-1"
	_, err := s.CreatePrivateDisk(ctx, disk, 1<<20)
	must(t, err)

	keep := map[tree.Digest]bool{tree.Sum(data[0]): true, tree.Sum(data[2]): true, kept: true, gone: false}
	swept, err := s.Sweep(ctx, keep)
	must(t, err)
	want := []string{store.LayerName(tree.Sum(data[1])), store.BlobName(tree.Sum(data[3])), store.ReleaseName(gone)}
	if got := names(swept); !equalSets(got, want) {
		t.Errorf("swept %v, want %v", got, want)
	}
	volumes, err := s.Volumes(ctx)
	must(t, err)
	want = []string{
		store.LayerName(tree.Sum(data[0])), store.BlobName(tree.Sum(data[2])), store.ReleaseName(kept),
		"head-base-debian-13", disk,
	}
	if got := names(volumes); !equalSets(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
	swept, err = s.Sweep(ctx, keep)
	must(t, err)
	if len(swept) != 0 {
		t.Errorf("a second sweep deleted %v", names(swept))
	}
	mustBeUnfinished := func(want bool) {
		t.Helper()
		if left, err := s.Unfinished(ctx); err != nil || left != want {
			t.Errorf("a deletion is unfinished: %v, want %v; %v", left, want, err)
		}
	}
	mustBeUnfinished(false)
	must(t, s.SetHistory(ctx, release.Base, "debian-13", store.History{}))
	mustBeUnfinished(false)
	must(t, s.DeletePrivateDisk(ctx, disk))
	mustBeUnfinished(true)
	_, err = s.Sweep(ctx, nil)
	must(t, err)
	mustBeUnfinished(false)
}

func names(volumes []store.Volume) []string {
	var names []string
	for _, volume := range volumes {
		names = append(names, volume.Name)
	}
	return names
}

func equalSets(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

func cancelled(t *testing.T, ctx context.Context, s store.Store) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	data := random(40, 1<<20)
	id := tree.Sum(data)
	errs := map[string]error{}
	_, errs["PutLayer"] = s.PutLayer(ctx, layerOf(data), bytes.NewReader(data), nil)
	_, errs["LayerPath"] = s.LayerPath(ctx, id)
	errs["PutBlob"] = s.PutBlob(ctx, blobOf(data), bytes.NewReader(data), nil)
	_, errs["BlobPath"] = s.BlobPath(ctx, id)
	_, errs["GetBlob"] = s.GetBlob(ctx, blobOf(data))
	errs["PutManifest"] = s.PutManifest(ctx, id, data[:100])
	_, errs["GetManifest"] = s.GetManifest(ctx, id)
	errs["SetHistory"] = s.SetHistory(ctx, release.Base, "a", store.HistoryOf(id))
	_, errs["History"] = s.History(ctx, release.Base, "a")
	_, errs["Histories"] = s.Histories(ctx)
	_, errs["CreatePrivateDisk"] = s.CreatePrivateDisk(ctx, "vm-a", 1<<20)
	errs["DeletePrivateDisk"] = s.DeletePrivateDisk(ctx, "vm-a")
	_, errs["PrivateDisk"] = s.PrivateDisk(ctx, "vm-a")
	_, errs["Volumes"] = s.Volumes(ctx)
	_, errs["Sweep"] = s.Sweep(ctx, nil)
	_, _, errs["Lock"] = s.Lock(ctx, store.Shared, func(string) {})
	for method, err := range errs {
		if !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: got error %v, want %v", method, err, context.Canceled)
		}
	}
	// The next call must not use the connection that a cancelled call gave up.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if volumes, err := s.Volumes(ctx); err != nil || len(volumes) != 0 {
		t.Error(fmt.Sprint("after cancelled calls: ", volumes, err))
	}
}

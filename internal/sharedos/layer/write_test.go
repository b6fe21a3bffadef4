package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/erofs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func rootEntry() tree.Entry { return tree.Entry{Path: tree.Root, Type: tree.Directory, Mode: 0o755} }

func fileEntry(content memory, path string, data []byte) tree.Entry {
	return tree.Entry{Path: path, Type: tree.Regular, Mode: 0o644, Size: int64(len(data)), Digest: content.add(data)}
}

func testWorkshop(t *testing.T) *workshop {
	t.Helper()
	w := newWorkshop(t)
	t.Cleanup(func() {
		if err := w.close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return w
}

func writeTo(t *testing.T, ctx context.Context, entries []tree.Entry, content tree.Content) (release.Layer, error) {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "layer"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return Write(ctx, &tree.Tree{Entries: entries, Content: content}, file)
}

func TestVeritysetupAcceptsALayerAndNoChangedByte(t *testing.T) {
	for _, blocks := range []int{0, 1, 126, 127, 128, 129, 16_500} {
		t.Run(fmt.Sprint(blocks, " blocks of content"), func(t *testing.T) {
			content := memory{}
			entries := []tree.Entry{rootEntry()}
			if blocks > 0 {
				entries = append(entries,
					fileEntry(content, "a",
						bytes.Repeat([]byte("shared os"), blocks*release.BlockSize/9+1)[:blocks*release.BlockSize]))
			}
			path, layer := testWorkshop(t).write(entries, content)
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() != layer.Size || layer.DataSize%release.BlockSize != 0 ||
				layer.Size%release.BlockSize != 0 || layer.Size <= layer.DataSize {
				t.Errorf("file of %d bytes, layer %+v", info.Size(), layer)
			}
			if output, err := veritysetup(path, layer); err != nil {
				t.Fatalf("veritysetup: %v: %s", err, output)
			}
			if err := verifyFile(t, path, layer); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt([]byte{0x55}, layer.DataSize-1); err != nil {
				t.Fatal(err)
			}
			if err := file.Close(); err != nil {
				t.Fatal(err)
			}
			if output, err := veritysetup(path, layer); err == nil {
				t.Errorf("veritysetup accepts a changed byte: %s", output)
			}
			if err := verifyFile(t, path, layer); !errors.Is(err, ErrDamaged) {
				t.Errorf("a changed byte: got %v, want ErrDamaged", err)
			}
		})
	}
}

func verifyFile(t *testing.T, path string, layer release.Layer) error {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}()
	return Verify(file, layer)
}

func TestVerifyRefusesWhatIsNotTheLayer(t *testing.T) {
	content := memory{}
	path, layer := testWorkshop(t).write([]tree.Entry{rootEntry(),
		fileEntry(content, "a", bytes.Repeat([]byte{'x'}, 900_000))}, content)
	for name, spoil := range map[string]func(*release.Layer){
		"another id":        func(l *release.Layer) { l.ID[0]++ },
		"another size":      func(l *release.Layer) { l.Size += release.BlockSize },
		"another data size": func(l *release.Layer) { l.DataSize -= release.BlockSize },
		"no data":           func(l *release.Layer) { l.DataSize = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			other := layer
			spoil(&other)
			if err := verifyFile(t, path, other); !errors.Is(err, ErrDamaged) {
				t.Errorf("got %v, want ErrDamaged", err)
			}
		})
	}
	t.Run("changed hash tree", func(t *testing.T) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[layer.DataSize+release.BlockSize+5]++
		changed := filepath.Join(t.TempDir(), "layer")
		if err := os.WriteFile(changed, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := verifyFile(t, changed, layer); !errors.Is(err, ErrDamaged) {
			t.Errorf("got %v, want ErrDamaged", err)
		}
	})
}

func veritysetup(path string, layer release.Layer) ([]byte, error) {
	return exec.Command("veritysetup", "verify", path, path, layer.ID.Hex(),
		fmt.Sprintf("--hash-offset=%d", layer.DataSize)).CombinedOutput()
}

func TestTheSameTreeYieldsTheSameBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := &drawing{t: t, content: memory{}}
		w := newWorkshop(t)
		defer func() {
			if err := w.close(); err != nil {
				t.Fatal(err)
			}
		}()
		entries := d.next([]tree.Entry{rootEntry()}, 15)
		firstPath, first := w.write(entries, d.content)
		secondPath, second := w.write(entries, d.content)
		firstBytes, err := os.ReadFile(firstPath)
		if err != nil {
			t.Fatal(err)
		}
		secondBytes, err := os.ReadFile(secondPath)
		if err != nil {
			t.Fatal(err)
		}
		if first != second || !bytes.Equal(firstBytes, secondBytes) {
			t.Fatalf("two layers of one tree: %+v, %+v", first, second)
		}
	})
}

// DAX maps pages of the device, so it needs the plain layout: whole blocks, also for the tail of a file.
func TestContentLiesInWholeBlocksUnlessItFitsBesideTheInode(t *testing.T) {
	const plainLayout = 0
	content := memory{}
	entries := []tree.Entry{rootEntry()}
	for _, size := range []int{4097, 5000, 8191, 8192, 1 << 20, 1<<20 + 1} {
		entries = append(entries, fileEntry(content, fmt.Sprintf("%08d", size), bytes.Repeat([]byte{'x'}, size)))
	}
	path, _ := testWorkshop(t).write(entries, content)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	image, err := goerofs.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries[1:] {
		info, err := fs.Stat(image, e.Path)
		if err != nil {
			t.Fatal(err)
		}
		if stat, ok := info.Sys().(*goerofs.Stat); !ok || stat.InodeLayout != plainLayout {
			t.Errorf("%s: %+v is not of the plain layout", e.Path, info.Sys())
		}
	}
}

func TestALargeDirectoryReadsBack(t *testing.T) {
	content := memory{}
	entries := []tree.Entry{rootEntry(), {Path: "d", Type: tree.Directory, Mode: 0o755}}
	for i := range 5000 {
		entries = append(entries,
			fileEntry(content, fmt.Sprintf("d/%05d-%s", i, strings.Repeat("n", i%200)), fmt.Append(nil, i%7)))
	}
	w := testWorkshop(t)
	path, _ := w.write(entries, content)
	got, err := walk(w.mount(path))
	if err != nil {
		t.Fatal(err)
	}
	requireEqual(t, "large directory", entries, got)
}

func TestWriteRefusesContentThatIsNotWhatTheTreeSays(t *testing.T) {
	for _, size := range []int{10, 100_000} { // beside the inode, in blocks of its own
		data := bytes.Repeat([]byte{'x'}, size)
		good := fileEntry(memory{}, "a", data)
		for name, stored := range map[string]memory{
			"missing":   {},
			"too short": {good.Digest: data[1:]},
			"changed":   {good.Digest: append([]byte{'y'}, data[1:]...)},
		} {
			t.Run(fmt.Sprint(name, " ", size), func(t *testing.T) {
				if layer, err := writeTo(t, t.Context(), []tree.Entry{rootEntry(), good}, stored); err == nil {
					t.Errorf("no error, but %+v", layer)
				} else if !strings.Contains(err.Error(), `"a"`) && name != "missing" {
					t.Errorf("the error does not name the file: %v", err)
				}
			})
		}
	}
}

func TestWriteRefusesAttributesThatWouldBeLost(t *testing.T) {
	for name, xattrs := range map[string]map[string]string{
		"unknown prefix":    {"btrfs.compression": "zstd"},
		"system attribute":  {"system.nfs4_acl": "x"},
		"prefix alone":      {"user.": "x"},
		"no prefix":         {"note": "x"},
		"too long a value":  {"user.note": strings.Repeat("x", 1<<16)},
		"too much together": {"user.a": strings.Repeat("x", 1<<16-1), "user.b": strings.Repeat("x", 1<<16-1), "user.c": "x"},
	} {
		t.Run(name, func(t *testing.T) {
			root := rootEntry()
			root.Xattrs = xattrs
			if _, err := writeTo(t, t.Context(), []tree.Entry{root}, memory{}); !errors.Is(err, erofs.ErrXattr) {
				t.Errorf("got %v, want erofs.ErrXattr", err)
			}
		})
	}
}

func TestWriteEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := writeTo(t, ctx, []tree.Entry{rootEntry()}, memory{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestWriteWantsAnEmptyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Write(t.Context(), &tree.Tree{Entries: []tree.Entry{rootEntry()}}, file)
	if err := errors.Join(file.Close()); err != nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Error("no error")
	}
}

func TestTimesAreKeptInSeconds(t *testing.T) {
	root := rootEntry()
	root.ModTime = time.Unix(1_700_000_000, 999)
	w := testWorkshop(t)
	path, _ := w.write([]tree.Entry{root}, memory{})
	info, err := os.Stat(w.mount(path))
	if err != nil {
		t.Fatal(err)
	}
	if !info.ModTime().Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("got %s", info.ModTime())
	}
}

func TestMemoryGrowsByEntriesOnly(t *testing.T) {
	// 64 MiB of content in four files, each made as it is read.
	content := filled{fill: 'x', size: 16 << 20}
	entries := []tree.Entry{rootEntry()}
	for i := range 4 {
		entries = append(entries, tree.Entry{
			Path: fmt.Sprint(i), Type: tree.Regular, Mode: 0o644, Size: content.size, Digest: content.digest(t),
		})
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	if _, err := writeTo(t, t.Context(), entries, content); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	// All that was ever allocated, in use at one time or not.
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 8<<20 {
		t.Errorf("%d bytes allocated for 64 MiB of content", allocated)
	}
}

func TestEqualFilesShareTheirBytesAndKeepTheirInodes(t *testing.T) {
	content := memory{}
	big := bytes.Repeat([]byte("shared"), 10_000)
	early, late := time.Unix(1_000_000, 0), time.Unix(2_000_000, 0)
	at := func(path string, data []byte, change func(*tree.Entry)) tree.Entry {
		e := fileEntry(content, path, data)
		e.ModTime = early
		if change != nil {
			change(&e)
		}
		return e
	}
	entries := []tree.Entry{
		rootEntry(),
		at("a", big, nil),
		directory("b"),
		at("b/same", big, nil),
		at("later", big, func(e *tree.Entry) { e.ModTime = late }),
		at("mode", big, func(e *tree.Entry) { e.Mode = 0o755 }),
		at("owner", big, func(e *tree.Entry) { e.UID = 7 }),
		at("same", big, nil),
		at("small", []byte("x"), nil),
		at("small-too", []byte("x"), nil),
		at("xattr", big, func(e *tree.Entry) { e.Xattrs = map[string]string{"user.note": "x"} }),
	}
	w := testWorkshop(t)
	path, layer := w.write(entries, content)
	mounted := w.mount(path)
	got, err := walk(mounted)
	if err != nil {
		t.Fatal(err)
	}
	requireEqual(t, "layer with equal files", entries, got)
	seen := map[uint64]string{}
	for _, e := range entries[1:] {
		if e.Type != tree.Regular {
			continue
		}
		stat := inodeOf(t, filepath.Join(mounted, e.Path))
		if other, ok := seen[stat.Ino]; ok || stat.Nlink != 1 {
			t.Errorf("%s has %d links, and the inode of %q", e.Path, stat.Nlink, other)
		}
		seen[stat.Ino] = e.Path
	}
	if limit := int64(len(big) + 8*release.BlockSize); layer.DataSize > limit {
		t.Errorf("%d bytes for one content of %d", layer.DataSize, len(big))
	}
}

func inodeOf(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat
}

func TestSmallFilesArePackedTightly(t *testing.T) {
	content := memory{}
	entries := []tree.Entry{rootEntry()}
	var bytesOfFiles int64
	for i := range 3000 {
		// From a few bytes to nearly a block, in no order.
		size := 10 + i*7919%3900
		entries = append(entries,
			fileEntry(content, fmt.Sprintf("%04d", i), bytes.Repeat([]byte{byte(i), byte(i >> 8)}, size/2)))
		bytesOfFiles += entries[len(entries)-1].Size
	}
	path, layer := testWorkshop(t).write(entries, content)
	if overhead := float64(layer.DataSize) / float64(bytesOfFiles); overhead > 1.09 {
		t.Errorf("%s takes %.3f times the content", path, overhead)
	}
}

// As many layers as a release may have (publish.MostChain), each over all before it.
func TestTheKernelMergesTheLongestChain(t *testing.T) {
	const layers = 16
	content := memory{}
	w := testWorkshop(t)
	newest := []tree.Entry{rootEntry(), directory("usr"), fileEntry(content, "usr/kept", []byte("kept"))}
	path, _ := w.write(newest, content)
	mounts := []string{w.mount(path)}
	for i := range layers - 1 {
		next := slices.Clone(newest[:3])
		for j := max(0, i-3); j <= i; j++ { // each comes and goes
			next = append(next, fileEntry(content, fmt.Sprintf("usr/v%02d", j), fmt.Append(nil, i)))
		}
		path, _ := w.write(Delta(newest, next), content)
		mounts, newest = append(mounts, w.mount(path)), next
	}
	got, err := walk(w.overlay(mounts...))
	if err != nil {
		t.Fatal(err)
	}
	requireEqual(t, "16 layers", newest, got)
}

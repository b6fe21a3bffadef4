package layer

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/erofs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A file that is a hole for the most part takes little of its layer, and reads back as it was.
func TestHolesTakeNoRoom(t *testing.T) {
	for name, test := range map[string]struct {
		content filled
		atMost  int64
		chunked bool
	}{
		"nothing but a hole": {filled{size: 1 << 27}, 16 << 10, true},
		"data at the ends and in the middle": {
			filled{size: 1<<27 + 1000,
				data: map[int64]string{0: "first", 1<<26 - 3: "across a block", 1<<27 + 995: "last"}}, 128 << 10, true,
		},
		"a hole before data": {filled{size: 10<<20 + 7, data: map[int64]string{10 << 20: "last"}},
			64 << 10, true},
		"a hole behind data": {filled{size: 10<<20 + 7, data: map[int64]string{0: "first"}}, 64 << 10,
			true},
		"no hole":                          {filled{fill: 'x', size: 1 << 20}, 1<<20 + 32<<10, false},
		"a hole that is not worth a chunk": {filled{size: 300 << 10, data: everyBlock(300<<10, 60<<10)}, 320 << 10, false},
		"small":                            {filled{size: 100 << 10}, 120 << 10, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := testWorkshop(t)
			digest := test.content.digest(t)
			file := tree.Entry{Path: "a", Type: tree.Regular, Mode: 0o600, Size: test.content.size, Digest: digest,
				Xattrs: map[string]string{"user.odd": "123"}}
			twin := file
			twin.Path, twin.Xattrs = "b", nil // it has the same content, and an inode of its own
			entries := []tree.Entry{rootEntry(), file, twin}
			path := w.path("layer")
			image, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			made, err := Write(t.Context(), &tree.Tree{Entries: entries, Content: test.content}, image)
			if err := errors.Join(err, image.Close()); err != nil {
				t.Fatal(err)
			}
			if made.DataSize > 2*test.atMost { // each of the two files has its own addresses
				t.Errorf("the layer takes %d bytes", made.DataSize)
			}
			stored, err := erofs.StoredBytes(t.Context(), &tree.Tree{Entries: entries, Content: test.content})
			if err != nil || stored > test.atMost || stored > made.DataSize {
				t.Errorf("the contents are said to take %d bytes of %d (%v)", stored, made.DataSize, err)
			}
			if output, err := exec.Command("fsck.erofs", path).CombinedOutput(); err != nil {
				t.Errorf("fsck.erofs: %v: %s", err, output)
			}
			got, err := walk(w.mount(path))
			if err != nil {
				t.Fatal(err)
			}
			requireEqual(t, "what the kernel reads", entries, got)
			layout, sum := libraryDigest(t, path, "b")
			if sum != digest || (layout == 4) != test.chunked {
				t.Errorf("go-erofs reads %s of layout %d", sum, layout)
			}
		})
	}
}

// everyBlock has a byte in each block up to a size.
func everyBlock(size, hole int64) map[int64]string {
	data := map[int64]string{}
	for at := hole; at < size; at += erofs.BlockSize {
		data[at] = "x"
	}
	return data
}

func libraryDigest(t *testing.T, path, name string) (layout uint8, digest tree.Digest) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // it is only read
	image, err := goerofs.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	from, err := image.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, from); err != nil {
		t.Fatal(err)
	}
	info, err := from.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat, ok := info.Sys().(*goerofs.Stat)
	if !ok {
		t.Fatalf("%T", info.Sys())
	}
	return stat.InodeLayout, tree.Digest(sum.Sum(nil))
}

// changing is content that is zeros when it is read for the first time, and then has data.
type changing struct {
	filled
	opened *int
}

func (c changing) Open(digest tree.Digest) (io.ReadCloser, error) {
	if *c.opened++; *c.opened > 1 {
		c.filled.data = map[int64]string{500_000: "x"}
	}
	return c.filled.Open(digest)
}

func TestAHoleThatIsFilledMeanwhileIsNoticed(t *testing.T) {
	opened := 0
	content := changing{filled{size: 1 << 20}, &opened}
	filled := filled{size: 1 << 20, data: map[int64]string{500_000: "x"}}
	_, err := writeTo(t, t.Context(),
		[]tree.Entry{rootEntry(), {Path: "a", Type: tree.Regular, Size: 1 << 20, Digest: filled.digest(t)}}, content)
	if err == nil {
		t.Error("no error")
	}
}

// Names of one file stay names of one file, in a delta, too. Files that are equal, or no more equal, do not become one.
func TestHardLinksStayHardLinks(t *testing.T) {
	content := memory{}
	linked := func(path string, inode uint32, data []byte) tree.Entry {
		e := fileEntry(content, path, data)
		e.Inode, e.ModTime = inode, time.Unix(1_000_000, 0)
		return e
	}
	small, big := []byte("small"), bytes.Repeat([]byte("big"), 10_000)
	changed := linked("changed", 1, big)
	changed.Mode = 0o600
	later := linked("later", 1, big)
	later.ModTime = time.Unix(2_000_000, 0)
	fifo := func(path string) tree.Entry { return tree.Entry{Path: path, Type: tree.FIFO, Inode: 4} }
	entries := []tree.Entry{
		rootEntry(),
		{Path: "a", Type: tree.Directory, Mode: 0o755},
		linked("a/big", 1, big), linked("a/small", 2, small),
		linked("big", 1, big), changed, linked("equal", 0, big), fifo("fifo"), fifo("fifo2"),
		later, linked("other", 3, big),
		linked("small", 2, small),
	}
	want := map[string]uint64{
		"a/big": 2, "big": 2, "a/small": 2, "small": 2, "fifo": 2, "fifo2": 2, "changed": 1,
		"equal": 1, "later": 1, "other": 1,
	}
	w := testWorkshop(t)
	for what, list := range map[string][]tree.Entry{"full": entries,
		"delta": Delta([]tree.Entry{rootEntry()}, entries)} {
		path, _ := w.write(list, content)
		at := w.mount(path)
		got, err := walk(at)
		if err != nil {
			t.Fatal(err)
		}
		requireEqual(t, what, entries, got)
		inodes := map[string]uint64{}
		for name, links := range want {
			var stat unix.Stat_t
			if err := unix.Lstat(filepath.Join(at, name), &stat); err != nil {
				t.Fatal(err)
			}
			if inodes[name] = stat.Ino; stat.Nlink != links {
				t.Errorf("%s: %s has %d names, want %d", what, name, stat.Nlink, links)
			}
		}
		for _, pair := range []string{"big", "small"} {
			if inodes[pair] != inodes["a/"+pair] {
				t.Errorf("%s: %s has two inodes", what, pair)
			}
		}
	}
}

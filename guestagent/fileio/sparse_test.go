package fileio_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
)

func TestSparseWritesWhatItIsGivenInAnyParts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	rapid.Check(t, func(t *rapid.T) {
		var want []byte
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		sparse := fileio.NewSparse(file)
		for range rapid.IntRange(0, 6).Draw(t, "parts") {
			part := bytes.Repeat([]byte{rapid.SampledFrom([]byte{0, 0, 'x'}).Draw(t, "fill")},
				rapid.IntRange(0, 10_000).Draw(t, "length"))
			if n, err := sparse.Write(part); n != len(part) || err != nil {
				t.Fatalf("%d of %d bytes: %v", n, len(part), err)
			}
			want = append(want, part...)
		}
		if err := sparse.End(); err != nil {
			t.Fatal(err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes instead of %d, or others (%v)", len(got), len(want), err)
		}
	})
}

func TestSparseLeavesOutZeros(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // only its state is read
	sparse := fileio.NewSparse(file)
	for _, part := range [][]byte{[]byte("first"), make([]byte, 8<<20), []byte("last"), make([]byte, 8<<20)} {
		if _, err := sparse.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := sparse.End(); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	if stat.Size != 16<<20+9 || stat.Blocks*512 > 64<<10 {
		t.Errorf("%d bytes take %d", stat.Size, stat.Blocks*512)
	}
}

package slots

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

func TestTheLastRecordIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	if _, err := Read(path); !errors.Is(err, ErrAbsent) {
		t.Fatalf("of a file that is not there: %v", err)
	}
	rapid.Check(t, func(t *rapid.T) {
		record := rapid.SliceOfN(rapid.Byte(), 0, 3*smallest).Draw(t, "record")
		if err := Write(path, record); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || !bytes.Equal(got, record) {
			t.Fatalf("%d bytes were read as %d: %v", len(record), len(got), err)
		}
	})
}

// TestAWriteThatWasTornLeavesTheRecordBefore cuts the second write off after every block, and flips a byte of each.
func TestAWriteThatWasTornLeavesTheRecordBefore(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	first, second := bytes.Repeat([]byte("first"), 5000), bytes.Repeat([]byte("second"), 5000)
	for _, record := range [][]byte{first, second} {
		if err := Write(path, record); err != nil {
			t.Fatal(err)
		}
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := len(whole) / 2
	blocks := (headSize + len(second) + block - 1) / block
	for written := range blocks {
		torn := bytes.Clone(whole)
		clear(torn[size+written*block : size+blocks*block])
		mustRead(t, path, torn, first)
		torn = bytes.Clone(whole)
		torn[size+written*block] ^= 0xff
		mustRead(t, path, torn, first)
	}
	mustRead(t, path, whole, second)
}

func mustRead(t *testing.T, path string, file, record []byte) {
	t.Helper()
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Read(path); err != nil || !bytes.Equal(got, record) {
		t.Fatalf("read %.10q…, %v; want %.10q…", got, err, record)
	}
}

func TestADamagedFileIsToldAndReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	for _, file := range [][]byte{nil, []byte("short"), make([]byte, 2*smallest), make([]byte, 2*smallest+1)} {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); !errors.Is(err, ErrDamaged) {
			t.Errorf("%d bytes: %v", len(file), err)
		}
		if err := Write(path, []byte("new")); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || string(got) != "new" {
			t.Errorf("after %d bytes: %q, %v", len(file), got, err)
		}
	}
}

func TestAWriteTakesNoNewBlocks(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record")
	if err := Write(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if err := Write(path, bytes.Repeat([]byte("x"), smallest/2)); err != nil {
			t.Fatal(err)
		}
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || before.Size() != after.Size() {
		t.Errorf("the file of %d bytes became one of %d", before.Size(), after.Size())
	}
}

func FuzzRead(f *testing.F) {
	f.Add(make([]byte, 2*smallest))
	f.Add(append(encode(1, []byte("record")), make([]byte, 2*smallest-block)...))
	f.Fuzz(func(t *testing.T, file []byte) {
		path := filepath.Join(t.TempDir(), "record")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Read(path); err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
	})
}

package crashtest

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// snapshotTries is how often a disk is read until no write came in between.
const snapshotTries = 1000

// extent is a part of a disk that is not a hole.
type extent struct {
	offset int64
	data   []byte
}

// disk is the content of a private disk at one moment, as a power cut at that moment leaves it.
// What a program has written but its kernel has not yet sent to the disk is missing.
type disk []extent

func (d disk) equal(other disk) bool {
	return slices.EqualFunc(d, other,
		func(a, b extent) bool { return a.offset == b.offset && bytes.Equal(a.data, b.data) })
}

// snapshot reads a disk until two readings are equal. Then the content is that of the moment between them.
func snapshot(t *testing.T, path string) disk {
	t.Helper()
	before := readDisk(t, path)
	for range snapshotTries {
		after := readDisk(t, path)
		if before.equal(after) {
			return after
		}
		before = after
	}
	t.Fatalf("%s changes all the time", path)
	return nil
}

func readDisk(t *testing.T, path string) disk {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }() // it was only read
	var read disk
	for end := int64(0); ; {
		start, err := unix.Seek(int(file.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return read
		}
		if err == nil {
			end, err = unix.Seek(int(file.Fd()), start, unix.SEEK_HOLE)
		}
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, end-start)
		if _, err := file.ReadAt(data, start); err != nil {
			t.Fatal(err)
		}
		// A machine reads a hole as zeros.
		const block = 4096
		for offset := 0; offset < len(data); offset += block {
			piece := data[offset:min(offset+block, len(data))]
			if bytes.Count(piece, []byte{0}) < len(piece) {
				read = append(read, extent{start + int64(offset), piece})
			}
		}
	}
}

// write writes the disk into a new file.
func (d disk) write(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range d {
		if _, err := file.WriteAt(e.data, e.offset); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(file.Truncate(diskSize), file.Close()); err != nil {
		t.Fatal(err)
	}
}

package store

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

// A layer is read in aligned windows, each once for as long as it is in use, wherever the reads begin and end.
func TestALayerIsReadInWindows(t *testing.T) {
	content := make([]byte, 5*window+100)
	for i := range content {
		content[i] = byte(i>>12) ^ byte(i)
	}
	var asked []int64
	w := &windowed{size: int64(len(content)), read: func(offset, length int64) ([]byte, error) {
		asked = append(asked, offset/window)
		return content[offset : offset+length], nil
	}}
	for _, at := range []struct{ offset, length int64 }{{0, 10}, {window - 5, 10}, {5, window},
		{4 * window, window + 100}, {2*window - 1, 2}, {0, 1}} {
		got := make([]byte, at.length)
		if n, err := w.ReadAt(got, at.offset); n != len(got) || err != nil ||
			!bytes.Equal(got, content[at.offset:at.offset+at.length]) {
			t.Errorf("%+v: %d bytes, %v", at, n, err)
		}
	}
	// 2 takes the place of 0, which was not used for longest, and 0 that of 4.
	if want := []int64{0, 1, 4, 5, 2, 0}; !slices.Equal(asked, want) {
		t.Errorf("windows %v were read, want %v", asked, want)
	}
	if n, err := w.ReadAt(make([]byte, 10), int64(len(content))-3); n != 3 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
	if _, err := w.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("before the start: no error")
	}
	w = &windowed{size: 10, read: func(int64, int64) ([]byte, error) { return []byte("short"), nil }}
	if n, err := w.ReadAt(make([]byte, 10), 0); n != 5 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a volume that ends early: %d bytes, %v", n, err)
	}
}

package store

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// ReadLayer implements Objects.
func (s *Libvirt) ReadLayer(ctx context.Context, wanted release.Layer, use func(io.ReaderAt) error) error {
	what, name := "read layer "+wanted.ID.String(), LayerName(wanted.ID)
	found, err := s.find(ctx, what, name, reading)
	if err != nil {
		return err
	}
	if found.capacity < wanted.Size {
		return fmt.Errorf("%s: volume %s has %d bytes instead of %d: %w", what, found.path,
			found.capacity, wanted.Size, ErrCorrupt)
	}
	err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		return use(&windowed{size: wanted.Size, read: func(offset, length int64) ([]byte, error) {
			return t.Download(found.StorageVol, offset, length)
		}})
	})
	return absent(name, err)
}

// window is how many bytes of a layer are read at once. The files of a layer are read in the order in which they are in
// it, so most reads are answered by the window of the one before.
const window = 4 << 20

// windowed reads a volume in aligned windows and keeps the last few: an image has its directories and its files in
// different places.
type windowed struct {
	size int64
	read readAt

	mu     sync.Mutex
	recent []windowAt // newest last
}

type windowAt struct {
	number int64
	data   []byte
}

// keptWindows is how many windows are kept.
const keptWindows = 4

// ReadAt implements io.ReaderAt.
func (w *windowed) ReadAt(p []byte, offset int64) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if offset < 0 {
		return 0, fmt.Errorf("read at offset %d", offset)
	}
	for n < len(p) {
		at := offset + int64(n)
		if at >= w.size {
			return n, io.EOF
		}
		data, err := w.window(at / window)
		if err != nil {
			return n, err
		}
		from := at % window
		if from >= int64(len(data)) {
			return n, io.ErrUnexpectedEOF
		}
		n += copy(p[n:], data[from:])
	}
	return n, nil
}

func (w *windowed) window(number int64) ([]byte, error) {
	for i, one := range w.recent {
		if one.number == number {
			w.recent = append(append(w.recent[:i:i], w.recent[i+1:]...), one)
			return one.data, nil
		}
	}
	data, err := w.read(number*window, min(window, w.size-number*window))
	if err != nil {
		return nil, err
	}
	if len(w.recent) == keptWindows {
		w.recent = w.recent[1:]
	}
	w.recent = append(w.recent, windowAt{number, data})
	return data, nil
}

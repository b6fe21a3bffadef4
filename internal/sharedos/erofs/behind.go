package erofs

import (
	"io"
	"sync/atomic"
)

// behind writes buffers in order in a goroutine of its own, so that what comes next is read and hashed meanwhile. Two
// buffers go to and fro.
type behind struct {
	full, free chan []byte
	failed     atomic.Bool
	end        chan error
}

func writeBehind(to io.Writer) *behind {
	b := &behind{full: make(chan []byte), free: make(chan []byte, 2), end: make(chan error, 1)}
	for range cap(b.free) {
		b.free <- make([]byte, 0, bufferSize)
	}
	go func() {
		var err error
		for buffer := range b.full {
			if err == nil {
				_, err = to.Write(buffer)
				b.failed.Store(err != nil)
			}
			b.free <- buffer[:0]
		}
		b.end <- err
	}()
	return b
}

// swap has a buffer written and returns an empty one; false if there is no use in going on, because something could
// not be written.
func (b *behind) swap(buffer []byte) ([]byte, bool) {
	b.full <- buffer
	return <-b.free, !b.failed.Load()
}

// close waits until all is written, and returns why it could not be.
func (b *behind) close() error {
	close(b.full)
	return <-b.end
}

package erofs

import (
	"io"
	"sync/atomic"
)

// behind writes buffers in order in a goroutine of its own, while its user reads and hashes the following content. Two
// buffers alternate between the two.
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

// swap passes on a buffer to be written and returns an empty one. It returns false if an earlier write has failed.
func (b *behind) swap(buffer []byte) ([]byte, bool) {
	b.full <- buffer
	return <-b.free, !b.failed.Load()
}

// close waits until all buffers are written, and returns the error of the write that failed.
func (b *behind) close() error {
	close(b.full)
	return <-b.end
}

package source

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// tarPipe is a tar stream that a function writes while it is read.
type tarPipe struct {
	source fmt.Stringer
	*io.PipeReader
	ended chan struct{}
	err   error
}

// copyBuffer is the size of the buffer that all files of a stream are copied through, in bytes: io.Copy would make one for each.
const copyBuffer = 64 << 10

// errStopped is what the writer of a stream meets when its reader has closed it.
var errStopped = errors.New("the reader stopped")

// newTarPipe starts write in a goroutine that Close waits for. What write returns, Read and Close report.
func newTarPipe(ctx context.Context, source fmt.Stringer, write func(context.Context, *tar.Writer) error) *tarPipe {
	r, w := io.Pipe()
	p := &tarPipe{source: source, PipeReader: r, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		buffered := bufio.NewWriterSize(w, 256<<10)
		out := tar.NewWriter(buffered)
		err := write(ctx, out)
		if err == nil {
			err = errors.Join(out.Close(), buffered.Flush())
		}
		if err != nil && !errors.Is(err, errStopped) {
			p.err = &sourceError{source: source, err: err}
		}
		_ = w.CloseWithError(p.err) // it returns nil always
	}()
	return p
}

// Close ends the stream and waits for its writer.
func (p *tarPipe) Close() error {
	_ = p.CloseWithError(errStopped) // it returns nil always
	<-p.ended
	return p.err
}

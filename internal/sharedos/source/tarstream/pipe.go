package tarstream

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// CopyBuffer is the size in bytes of a buffer for copying files into a stream. io.Copy would allocate one for each
// file.
const CopyBuffer = 64 << 10

// pipe is a tar stream that a goroutine writes while it is read.
type pipe struct {
	*io.PipeReader
	ended chan struct{}
	err   error
}

// errStopped is what the writer of a stream gets after its reader was closed.
var errStopped = errors.New("the reader stopped")

// Pipe returns a stream that write writes in a goroutine. If write fails, Read and Close return its error, with the
// name of the source. Close stops the goroutine and waits for it.
func Pipe(ctx context.Context, from fmt.Stringer, write func(context.Context, *tar.Writer) error) io.ReadCloser {
	r, w := io.Pipe()
	p := &pipe{PipeReader: r, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		buffered := bufio.NewWriterSize(w, 256<<10)
		out := tar.NewWriter(buffered)
		err := write(ctx, out)
		if err == nil {
			err = errors.Join(out.Close(), buffered.Flush())
		}
		if !errors.Is(err, errStopped) {
			p.err = source.Wrap(from, err)
		}
		_ = w.CloseWithError(p.err) // it always returns nil
	}()
	return p
}

func (p *pipe) Close() error {
	_ = p.CloseWithError(errStopped) // it always returns nil
	<-p.ended
	return p.err
}

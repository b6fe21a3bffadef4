package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/erofs/go-erofs"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// buildTime stands in every image in place of the time at which it was written: 2000-01-01.
const buildTime = 946684800

// Write writes t as a layer to out, which must be an empty file open for reading and writing, and returns what
// names it. Delta is set when t holds a mark of overlayfs; the caller sets it for a delta that only adds. The
// caller syncs and closes out, and removes it after an error. Besides a few hundred bytes for each entry it needs
// no memory that grows with the tree. Errors match ErrXattr for attributes that would be lost.
func Write(ctx context.Context, t *tree.Tree, out *os.File) (release.Layer, error) {
	layer, err := write(ctx, t, out)
	if err != nil {
		return release.Layer{}, fmt.Errorf("write layer: %w", err)
	}
	return layer, nil
}

func write(ctx context.Context, t *tree.Tree, out *os.File) (release.Layer, error) {
	if info, err := out.Stat(); err != nil || info.Size() != 0 {
		return release.Layer{}, errors.Join(err, fmt.Errorf("%s is not an empty file", out.Name()))
	}
	from, err := newTreeFS(ctx, t)
	if err != nil {
		return release.Layer{}, err
	}
	to := &imageWriter{ctx: ctx, file: out, buffer: bufio.NewWriterSize(out, 1<<20)}
	image := erofs.Create(to, erofs.WithBlockSize(release.BlockSize), erofs.WithBuildTime(buildTime, 0))
	if err := image.CopyFrom(from); err != nil {
		return release.Layer{}, err
	}
	if err := image.Close(); err != nil {
		return release.Layer{}, err
	}
	if err := to.buffer.Flush(); err != nil {
		return release.Layer{}, err
	}
	info, err := out.Stat()
	if err != nil {
		return release.Layer{}, err
	}
	layer := release.Layer{DataSize: info.Size(), Delta: slices.ContainsFunc(t.Entries, marked)}
	if layer.ID, err = appendHashTree(out, layer.DataSize); err != nil {
		return release.Layer{}, err
	}
	if layer.Size, err = padToBlock(out); err != nil {
		return release.Layer{}, err
	}
	return layer, ctx.Err()
}

// marked reports whether an entry is or bears a mark of overlayfs.
func marked(e tree.Entry) bool {
	if IsWhiteout(&e) {
		return true
	}
	for name := range e.Xattrs {
		if strings.HasPrefix(name, overlayPrefix) {
			return true
		}
	}
	return false
}

// imageWriter gathers go-erofs' many small writes and ends them when the context does.
type imageWriter struct {
	ctx    context.Context
	file   *os.File
	buffer *bufio.Writer
}

func (w *imageWriter) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.buffer.Write(p)
}

func (w *imageWriter) Seek(offset int64, whence int) (int64, error) {
	if err := w.buffer.Flush(); err != nil {
		return 0, err
	}
	return w.file.Seek(offset, whence)
}

var _ io.WriteSeeker = (*imageWriter)(nil)

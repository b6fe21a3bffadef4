package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// maxPrefetch bounds what is read before one restart, in bytes: a small VM has no memory for more.
	maxPrefetch   = 64 << 20
	prefetchChunk = 256 << 10
)

// Prefetch implements refresh.Usr.
func (l *Usr) Prefetch(ctx context.Context, paths []string) error {
	buffer := make([]byte, prefetchChunk)
	left := int64(maxPrefetch)
	for _, path := range paths {
		if err := prefetch(ctx, path, buffer, &left); err != nil {
			return fmt.Errorf("prefetch %s: %w", path, err)
		}
	}
	return nil
}

// prefetch reads a regular file, so that its pages are in the page cache.
func prefetch(ctx context.Context, path string, buffer []byte, left *int64) (err error) {
	// It may be a link, or one to a device that would block.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() > *left {
		return err
	}
	*left -= info.Size()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		_, err := file.Read(buffer)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

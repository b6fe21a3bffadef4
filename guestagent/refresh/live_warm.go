package refresh

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
	// maxWarm bounds what is read ahead of one restart, in bytes: a small VM has no room for more.
	maxWarm   = 64 << 20
	warmChunk = 256 << 10
)

// Warm implements Usr.
func (l *LiveUsr) Warm(ctx context.Context, paths []string) error {
	buffer := make([]byte, warmChunk)
	left := int64(maxWarm)
	for _, path := range paths {
		if err := warm(ctx, path, buffer, &left); err != nil {
			return fmt.Errorf("read %s ahead of a restart: %w", path, err)
		}
	}
	return nil
}

// warm reads a regular file, so that its pages are in memory.
func warm(ctx context.Context, path string, buffer []byte, left *int64) (err error) {
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

// Package fetch downloads files whose digest is known, into a cache, and resumes downloads that were interrupted.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Blobs is a directory of downloads, named by their digests. A blob appears there complete and verified. What was
// received of an interrupted download is kept and continued.
type Blobs struct {
	dir string
}

// BlobsIn returns the blobs in a cache directory.
func BlobsIn(cacheDir string) Blobs { return Blobs{filepath.Join(cacheDir, "blobs")} }

// Blob describes a file to download.
type Blob struct {
	Digest tree.Digest
	// Size in bytes; -1 if it is not known.
	Size int64
	// Limit bounds the size in bytes.
	Limit int64
}

// maxSize is the largest size that the blob can have.
func (b Blob) maxSize() int64 {
	if b.Size >= 0 {
		return b.Size
	}
	return b.Limit
}

const (
	// keepBlobs is how many blobs are kept: those that were used most recently.
	keepBlobs = 128
	// fetchAttempts is how many attempts in a row may fail without receiving a byte.
	fetchAttempts = 3
)

// A Fetcher requests a blob from an offset on. It returns the offset at which the body starts, which may be an earlier
// one.
type Fetcher func(ctx context.Context, offset int64) (body io.ReadCloser, from int64, err error)

func (c Blobs) path(digest tree.Digest) string { return filepath.Join(c.dir, digest.Hex()) }

// Remove removes a blob that was damaged after its download.
func (c Blobs) Remove(digest tree.Digest) error { return os.Remove(c.path(digest)) }

// Has reports whether a blob is in the directory.
func (c Blobs) Has(digest tree.Digest) (bool, error) {
	_, err := os.Stat(c.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Open opens a blob and downloads it first if necessary. It calls progress with the number of bytes that it received.
// The error wraps source.ErrLimit or source.ErrCorrupt where they apply.
func (c Blobs) Open(ctx context.Context, blob Blob, fetch Fetcher, progress func(more int64)) (*os.File, error) {
	file, err := c.open(blob.Digest)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if blob.Size > blob.Limit {
		return nil, tooLarge(blob)
	}
	if err := c.download(ctx, blob, fetch, progress); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", blob.Digest, err)
	}
	return c.open(blob.Digest)
}

func tooLarge(blob Blob) error {
	return fmt.Errorf("more than %d bytes to download: %w; raise the limit if this is meant to be one operating system",
		blob.Limit, source.ErrLimit)
}

func (c Blobs) open(digest tree.Digest) (*os.File, error) {
	path := c.path(digest)
	if err := cache.MarkUsed(path); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// download downloads a blob into the directory.
func (c Blobs) download(ctx context.Context, blob Blob, fetch Fetcher, progress func(int64)) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	part, err := os.OpenFile(c.path(blob.Digest)+cache.PartSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, part.Close()) }() // this also releases the lock
	if err := cache.LockFile(ctx, part, func() {}); err != nil {
		return err
	}
	if done, err := c.Has(blob.Digest); done || err != nil {
		return err // another process has downloaded it meanwhile
	}
	if err := fill(ctx, part, blob, fetch, progress); err != nil {
		return err
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got, err := cache.DigestOf(ctx, part)
	if err != nil {
		return err
	}
	if got != blob.Digest {
		return errors.Join(fmt.Errorf("the received file has the digest %s: %w", got, source.ErrCorrupt),
			part.Truncate(0))
	}
	if err := part.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), c.path(blob.Digest)); err != nil {
		return err
	}
	return cache.Sweep(c.dir, keepBlobs, cache.Abandoned, func(string) bool { return true })
}

// fill downloads what a file lacks of a blob.
func fill(ctx context.Context, part *os.File, blob Blob, fetch Fetcher, progress func(int64)) error {
	for attempt := 1; ; attempt++ {
		have, err := part.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if have == blob.Size {
			return nil
		}
		got, err := fillOnce(ctx, part, have, blob, fetch, progress)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, source.ErrLimit), attempt == fetchAttempts && got <= have:
			return err
		}
		if got > have {
			attempt = 0
		}
	}
}

// fillOnce makes one request for what a file of have bytes lacks. It returns how many bytes the file has afterwards.
func fillOnce(ctx context.Context, part *os.File, have int64, blob Blob, fetch Fetcher,
	progress func(int64)) (_ int64, err error) {
	ctx, alive, stop := whileAlive(ctx)
	defer stop()
	if blob.Size >= 0 && have > blob.Size {
		have = 0
	}
	body, from, err := fetch(ctx, have)
	if err != nil {
		return have, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if from > have {
		return have, fmt.Errorf("asked for byte %d, got byte %d: %w", have, from, source.ErrCorrupt)
	}
	if err := part.Truncate(from); err != nil {
		return have, err
	}
	if _, err := part.Seek(from, io.SeekStart); err != nil {
		return have, err
	}
	end := blob.maxSize()
	n, err := io.Copy(part,
		&io.LimitedReader{R: &ReadNotifier{body, func(n int64) { alive(); progress(n) }}, N: end - from + 1})
	switch got := from + n; {
	case got > end && blob.Size >= 0:
		return got, errors.Join(fmt.Errorf("more than the expected %d bytes: %w", end, source.ErrCorrupt),
			part.Truncate(0))
	case got > end:
		return got, errors.Join(tooLarge(blob), part.Truncate(0))
	case err != nil && context.Cause(ctx) != nil:
		return got, context.Cause(ctx)
	case err != nil:
		return got, err
	case got < blob.Size:
		return got, fmt.Errorf("the file ends after %d of %d bytes: %w", got, blob.Size, source.ErrCorrupt)
	default:
		return got, nil
	}
}

// ReadNotifier calls a function with the number of bytes of each read.
type ReadNotifier struct {
	io.Reader
	OnRead func(n int64)
}

func (r *ReadNotifier) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.OnRead(int64(n))
	return n, err
}

// silence is how long a server may send nothing.
var silence = time.Minute

// errSilent means that a server sent nothing for too long.
var errSilent = errors.New("the server sent nothing for a minute")

// whileAlive returns a context that ends if alive is not called for too long.
func whileAlive(ctx context.Context) (_ context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	return ctx, func() { timer.Reset(silence) }, func() { timer.Stop(); cancel(nil) }
}

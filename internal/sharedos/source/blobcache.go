package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// blobCache is a directory of what was fetched over a network, named by digest. A blob appears there whole and checked,
// or not at all; what was fetched of one whose fetching was cut off is kept, and fetching goes on from there.
type blobCache struct {
	dir string
}

const (
	partSuffix = ".part"
	// keepBlobs is how many blobs stay, those that were used last.
	keepBlobs = 128
	// fetchAttempts is how often in a row fetching may end without a byte more than before.
	fetchAttempts = 3
)

// A fetcher yields the bytes of a blob from an offset on, or from an earlier one, which it returns.
type fetcher func(ctx context.Context, offset int64) (io.ReadCloser, int64, error)

func (c blobCache) path(digest tree.Digest) string { return filepath.Join(c.dir, digest.Hex()) }

// drop removes a blob that was damaged.
func (c blobCache) drop(digest tree.Digest) error { return os.Remove(c.path(digest)) }

// has reports whether a blob is there.
func (c blobCache) has(digest tree.Digest) (bool, error) {
	_, err := os.Stat(c.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// open opens a blob, and fetches it first if it is not there. A size of -1 is not known; then most bounds it, in bytes.
func (c blobCache) open(ctx context.Context, digest tree.Digest, size, most int64, fetch fetcher, tell func(int64)) (*os.File, error) {
	file, err := c.openWhole(digest)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if size > most {
		return nil, fmt.Errorf("%d bytes to fetch, more than %d: %w; raise the limit if this is meant to be one "+
			"operating system", size, most, ErrLimit)
	}
	if err := c.fetch(ctx, digest, size, most, fetch, tell); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", digest, err)
	}
	return c.openWhole(digest)
}

func (c blobCache) openWhole(digest tree.Digest) (*os.File, error) {
	path := c.path(digest)
	// What was used last is kept longest. Only the access time tells: the other would look like a change.
	if err := os.Chtimes(path, time.Now(), time.Time{}); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// fetch makes a blob appear.
func (c blobCache) fetch(ctx context.Context, digest tree.Digest, size, most int64, fetch fetcher, tell func(int64)) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	part, err := os.OpenFile(c.path(digest)+partSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, part.Close()) }() // which gives back the lock
	if err := flock(ctx, part, func() {}); err != nil {
		return err
	}
	if done, err := c.has(digest); done || err != nil {
		return err // by another process meanwhile
	}
	if err := fill(ctx, part, size, most, fetch, tell); err != nil {
		return err
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got, err := digestOf(ctx, part)
	if err != nil {
		return err
	}
	if got != digest {
		return errors.Join(fmt.Errorf("what comes has the digest %s: %w", got, ErrCorrupt), part.Truncate(0))
	}
	if err := part.Sync(); err != nil {
		return err
	}
	if err := os.Rename(part.Name(), c.path(digest)); err != nil {
		return err
	}
	return errors.Join(syncDir(c.dir), sweepOldest(c.dir, "", keepBlobs))
}

// fill completes what a file has of a blob.
func fill(ctx context.Context, part *os.File, size, most int64, fetch fetcher, tell func(int64)) error {
	for attempt := 1; ; attempt++ {
		have, err := part.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		if have == size {
			return nil
		}
		got, err := fillOnce(ctx, part, have, size, most, fetch, tell)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, ErrLimit), attempt == fetchAttempts && got <= have:
			return err
		}
		if got > have {
			attempt = 0
		}
	}
}

// fillOnce asks once for what is missing and returns how many bytes there are then.
func fillOnce(ctx context.Context, part *os.File, have, size, most int64, fetch fetcher, tell func(int64)) (_ int64, err error) {
	ctx, alive, stop := whileAlive(ctx)
	defer stop()
	if size >= 0 && have > size {
		have = 0
	}
	body, from, err := fetch(ctx, have)
	if err != nil {
		return have, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if from > have {
		return have, fmt.Errorf("asked for byte %d, got byte %d: %w", have, from, ErrCorrupt)
	}
	if err := errors.Join(part.Truncate(from), seekTo(part, from)); err != nil {
		return have, err
	}
	end := most
	if size >= 0 {
		end = size
	}
	n, err := io.Copy(part, &io.LimitedReader{R: &noted{body, func(n int) { alive(); tell(int64(n)) }}, N: end - from + 1})
	switch got := from + n; {
	case got > end && size >= 0:
		return got, errors.Join(fmt.Errorf("more than the %d bytes that it should have: %w", size, ErrCorrupt), part.Truncate(0))
	case got > end:
		return got, errors.Join(fmt.Errorf("more than %d bytes: %w; raise the limit if this is meant to be one "+
			"operating system", most, ErrLimit), part.Truncate(0))
	case err != nil && context.Cause(ctx) != nil:
		return got, context.Cause(ctx)
	case err != nil:
		return got, err
	case size >= 0 && got < size:
		return got, fmt.Errorf("it ends after %d of %d bytes: %w", got, size, ErrCorrupt)
	default:
		return got, nil
	}
}

func seekTo(file *os.File, offset int64) error {
	_, err := file.Seek(offset, io.SeekStart)
	return err
}

// noted tells of what is read.
type noted struct {
	io.Reader
	tell func(n int)
}

func (r *noted) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.tell(n)
	return n, err
}

// silence is how long the other side may send nothing.
var silence = time.Minute

// errSilent means that the other side of a connection sent nothing for too long.
var errSilent = errors.New("nothing came for a minute")

// whileAlive is a context that ends when alive was not called for too long.
func whileAlive(ctx context.Context) (_ context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(silence, func() { cancel(errSilent) })
	return ctx, func() { timer.Reset(silence) }, func() { timer.Stop(); cancel(nil) }
}

// flock takes the lock of an open file. It waits as long as ctx allows and says so once.
func flock(ctx context.Context, file *os.File, waiting func()) error {
	for first := true; ; first = false {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock %s: %w", file.Name(), context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
}

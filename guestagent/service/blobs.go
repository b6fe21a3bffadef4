package service

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// maxBlobs bounds all blobs together, in bytes: they take memory.
	maxBlobs = 64 << 20
	// maxPart bounds one part, in bytes.
	maxPart = 1 << 20
)

var (
	// errBlob means that a part is not accepted.
	errBlob = errors.New("the part of the blob is refused")
	// errNoBlob means that a blob was not uploaded, or not completely.
	errNoBlob = errors.New("the host has not uploaded the blob")
)

// blobs keeps what the host uploads, in a directory of /run.
type blobs struct {
	directory string

	mutex sync.Mutex
	// whole are the sizes of complete blobs, partial the announced sizes of those that are being uploaded, in bytes.
	whole, partial map[tree.Digest]int64
	// holds is how many callers of hold need the blobs.
	holds int
}

// newBlobs opens the directory, with the complete blobs that an earlier agent left there.
func newBlobs(directory string) (*blobs, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, fmt.Errorf("blobs: %w", err)
	}
	b := &blobs{directory: directory, whole: map[tree.Digest]int64{}, partial: map[tree.Digest]int64{}}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return nil, fmt.Errorf("blobs: %w", err)
	}
	for _, entry := range entries {
		digest, err := tree.ParseDigest("sha256:" + entry.Name())
		if err != nil { // a partial one: the host starts it again
			if err := os.Remove(filepath.Join(directory, entry.Name())); err != nil {
				return nil, fmt.Errorf("blobs: %w", err)
			}
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return nil, fmt.Errorf("blobs: %w", err)
		}
		b.whole[digest] = info.Size()
	}
	return b, nil
}

func (b *blobs) path(digest tree.Digest) string { return filepath.Join(b.directory, digest.Hex()) }
func (b *blobs) partPath(digest tree.Digest) string {
	return filepath.Join(b.directory, digest.Hex()+".part")
}

// put accepts one part, and reports whether the blob is complete. Then its digest was checked.
func (b *blobs) put(digest tree.Digest, offset, size int64, data []byte) (complete bool, err error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if _, has := b.whole[digest]; has {
		return true, nil
	}
	switch {
	case size <= 0 || size > maxBlobs:
		return false, fmt.Errorf("%w: a blob has 1 to %d bytes, not %d", errBlob, maxBlobs, size)
	case len(data) == 0 || len(data) > maxPart:
		return false, fmt.Errorf("%w: a part has 1 to %d bytes, not %d", errBlob, maxPart, len(data))
	case offset < 0 || offset+int64(len(data)) > size:
		return false, fmt.Errorf("%w: %d bytes at offset %d of %d", errBlob, len(data), offset, size)
	}
	if offset == 0 {
		if err := b.begin(digest, size); err != nil {
			return false, err
		}
	}
	if b.partial[digest] != size {
		return false, fmt.Errorf("%w: its first part is missing, or announced another size; start again", errBlob)
	}
	end, err := appendPart(b.partPath(digest), offset, data)
	if err != nil {
		return false, err
	}
	if end < size {
		return false, nil
	}
	return b.finish(digest, size)
}

// begin starts a blob, if there is room for it.
func (b *blobs) begin(digest tree.Digest, size int64) error {
	total := size
	for other, bytes := range b.partial {
		if other != digest {
			total += bytes
		}
	}
	for _, bytes := range b.whole {
		total += bytes
	}
	if total > maxBlobs {
		return fmt.Errorf("%w: all blobs together would have %d bytes, more than %d", errBlob, total, maxBlobs)
	}
	b.partial[digest] = size
	return fileio.Remove(b.partPath(digest))
}

func appendPart(path string, offset int64, data []byte) (end int64, err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	at, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if at != offset {
		return 0, fmt.Errorf("%w: the blob has %d bytes, and the part starts at offset %d", errBlob, at, offset)
	}
	if _, err := file.Write(data); err != nil {
		return 0, err
	}
	return at + int64(len(data)), nil
}

func (b *blobs) finish(digest tree.Digest, size int64) (bool, error) {
	delete(b.partial, digest)
	got, err := digestOf(b.partPath(digest))
	if err == nil && got != digest {
		err = fmt.Errorf("%w: it has the digest %s, not %s", errBlob, got, digest)
	}
	if err != nil {
		return false, errors.Join(err, fileio.Remove(b.partPath(digest)))
	}
	if err := os.Rename(b.partPath(digest), b.path(digest)); err != nil {
		return false, err
	}
	b.whole[digest] = size
	return true, nil
}

func digestOf(path string) (digest tree.Digest, err error) {
	file, err := os.Open(path)
	if err != nil {
		return digest, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(sum, file); err != nil {
		return digest, err
	}
	return tree.Digest(sum.Sum(nil)), nil
}

// Open implements refresh.Blobs.
func (b *blobs) Open(digest tree.Digest) (io.ReadCloser, error) {
	file, err := os.Open(b.path(digest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", errNoBlob, digest)
	}
	return file, err
}

// hold has Drop do nothing until the function that it returns is called.
func (b *blobs) hold() (let func()) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.holds++
	return sync.OnceFunc(func() {
		b.mutex.Lock()
		defer b.mutex.Unlock()
		b.holds--
	})
}

// Drop implements refresh.Blobs.
func (b *blobs) Drop() error {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if b.holds > 0 {
		return nil // whoever holds them needs them for a refresh, which drops them at its end
	}
	var failures []error
	for digest := range b.whole {
		failures = append(failures, fileio.Remove(b.path(digest)))
	}
	for digest := range b.partial {
		failures = append(failures, fileio.Remove(b.partPath(digest)))
	}
	clear(b.whole)
	clear(b.partial)
	return errors.Join(failures...)
}

// take moves a complete blob to a path on the same file system, and returns its size in bytes. The digest is checked
// again: an earlier agent may have accepted the blob.
func (b *blobs) take(digest tree.Digest, path string) (size int64, err error) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	size, has := b.whole[digest]
	if !has {
		return 0, fmt.Errorf("%w: %s", errNoBlob, digest)
	}
	got, err := digestOf(b.path(digest))
	if err != nil {
		return 0, err
	}
	if got != digest {
		return 0, fmt.Errorf("%w: it has the digest %s, not %s", errBlob, got, digest)
	}
	if err := os.Rename(b.path(digest), path); err != nil {
		return 0, err
	}
	delete(b.whole, digest)
	return size, nil
}

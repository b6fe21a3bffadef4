package cache

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// File is a regular file that is open for reading, in the state that it had when it was opened.
type File struct {
	*os.File
	id     Identity
	opened time.Time
}

// OpenFile opens a regular file.
func OpenFile(path string) (*File, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	// O_NONBLOCK: opening a named pipe would wait for its writer.
	file, err := os.OpenFile(abs, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := &File{File: file, opened: time.Now()}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%s)", abs, info.Mode().Type())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	f.id = identityOfFile(info)
	return f, nil
}

// identityOfFile leaves out the time of the last change of the inode: a rename and a new access time change it, too.
func identityOfFile(info os.FileInfo) Identity {
	id := Identity{Size: info.Size(), Modified: info.ModTime().UnixNano()}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		id.Device, id.Inode = stat.Dev, stat.Ino
	}
	return id
}

// Size is the file's size in bytes.
func (f *File) Size() int64 { return f.id.Size }

// CheckUnchanged returns source.ErrChanged if the file is not in the state in which it was opened.
func (f *File) CheckUnchanged() error {
	info, err := f.Stat()
	if err == nil && identityOfFile(info) != f.id {
		err = source.ErrChanged
	}
	return err
}

// Digest returns the digest of the file. It reads the file only if cacheDir has no digest for its path, inode, size and
// modification time. An empty cacheDir stores nothing.
func (f *File) Digest(ctx context.Context, cacheDir string) (tree.Digest, error) {
	digests, err := OpenDigests(cacheDir, f.Name(), f.opened)
	if err != nil {
		return tree.Digest{}, err
	}
	if digest, ok := digests.Lookup(f.id); ok {
		return digest, nil
	}
	digest, err := DigestOf(ctx, f)
	if err != nil {
		return tree.Digest{}, err
	}
	if err := f.CheckUnchanged(); err != nil {
		return tree.Digest{}, err
	}
	digests.Add(f.id, digest)
	return digest, digests.Save()
}

// DigestOf reads r to its end and returns the digest of what it read.
func DigestOf(ctx context.Context, r io.Reader) (tree.Digest, error) {
	hash := sha256.New()
	if _, err := io.Copy(hash, &contextReader{ctx, r}); err != nil {
		return tree.Digest{}, err
	}
	return tree.Digest(hash.Sum(nil)), nil
}

// contextReader fails once its context ends.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// UnnamedFile returns an empty file in a directory, or in the system's directory for temporary files if dir is empty.
// It has no name, so nothing is left of it after Close or after the process ends.
func UnnamedFile(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "unnamed-*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

package source

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// digestsFile remembers, in a cache directory, the digests of archives. It is a list, newest last, of at most
// maxDigests records. To lose it, or a record by two writers at once, costs reading a file again and nothing else.
const (
	digestsFile = "archive-digests.json"
	maxDigests  = 64
	// maxDigestsFile bounds the file in bytes, paths included.
	maxDigestsFile = 1 << 20
	// settled is how long ago a file must have changed for its time to tell a later change from this one.
	settled = 2 * time.Second
)

type digestRecord struct {
	File   identity    `json:"file"`
	Digest tree.Digest `json:"digest"`
}

func newHash() hash.Hash { return sha256.New() }

func sumOf(h hash.Hash) (d tree.Digest) {
	h.Sum(d[:0])
	return d
}

// digestOnce returns the digest of an open file, from the cache in a directory if that knows the file.
func digestOnce(ctx context.Context, cacheDir string, file *os.File, id identity) (tree.Digest, error) {
	records, err := readDigests(cacheDir)
	if err != nil {
		return tree.Digest{}, err
	}
	for _, r := range records {
		if r.File == id {
			return r.Digest, nil
		}
	}
	digest, err := digestOf(ctx, file)
	if err != nil {
		return tree.Digest{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return tree.Digest{}, err
	}
	if identify(id.Path, info) != id {
		return tree.Digest{}, errors.New("it changed while it was read: try again when it is complete")
	}
	if cacheDir == "" || time.Since(info.ModTime()) < settled {
		return digest, nil
	}
	records = slices.DeleteFunc(records, func(r digestRecord) bool { return r.File.Path == id.Path })
	records = append(records, digestRecord{File: id, Digest: digest})
	return digest, writeDigests(cacheDir, records[max(0, len(records)-maxDigests):])
}

// readDigests returns what is remembered. A file that cannot be understood is as good as none.
func readDigests(cacheDir string) ([]digestRecord, error) {
	if cacheDir == "" {
		return nil, nil
	}
	path := filepath.Join(cacheDir, digestsFile)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read remembered digests: %w", err)
	}
	if info.Size() > maxDigestsFile {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read remembered digests: %w", err)
	}
	var records []digestRecord
	if json.Unmarshal(data, &records) != nil {
		return nil, nil
	}
	return records, nil
}

func writeDigests(cacheDir string, records []digestRecord) error {
	data, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		return fmt.Errorf("remember the digest: %w", err)
	}
	if err := writeWhole(filepath.Join(cacheDir, digestsFile), func(f *os.File) error {
		_, err := f.Write(append(data, '\n'))
		return err
	}); err != nil {
		return fmt.Errorf("remember the digest: %w", err)
	}
	return nil
}

// writeWhole makes a file appear complete or not at all, also after a crash. The directory is made if need be.
func writeWhole(path string, write func(*os.File) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, filepath.Base(path)+tempSuffix)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

// tempSuffix marks a file that is not complete.
const tempSuffix = ".*.tmp"

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/klauspost/compress/zstd"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
)

const (
	// maxBuilds is how often a tree is made again because the archive was updated meanwhile.
	maxBuilds = 3
	// keepBuilt is how many trees the cache holds.
	keepBuilt = 8
)

// The name of a tree in the cache is the digest of its input between these.
const (
	builtPrefix = "debian-"
	builtSuffix = ".tar.zst"
)

// cached returns the path of the tree of an input in the cache.
func (s *Source) cached(in *input) (string, error) {
	base, err := in.base()
	if err != nil {
		return "", err
	}
	return filepath.Join(s.CacheDir, builtPrefix+base.Hex()+builtSuffix), nil
}

func (s *Source) open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	for range maxBuilds {
		in, err := s.input(ctx, false)
		if err != nil {
			return nil, err
		}
		path, err := s.cached(in)
		if err != nil {
			return nil, err
		}
		stream, err := openBuilt(ctx, path, progress)
		if err == nil && len(in.files) > 0 {
			return addFiles(ctx, s, stream, in.files), nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return stream, err
		}
		if err := s.build(ctx, in, path, progress); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("the archive changed during each of %d builds: try again later", maxBuilds)
}

// openBuilt opens a tree in the cache. The error is os.ErrNotExist if it is not there.
func openBuilt(ctx context.Context, path string, progress source.Progress) (io.ReadCloser, error) {
	if err := cache.MarkUsed(path); err != nil {
		return nil, err
	}
	return archive.Source{Path: path}.Open(ctx, func(_ string, done, total int64) {
		progress("reading the tree from the cache", done, total)
	})
}

// build makes a tree and stores it in the cache. If the archive changed meanwhile, the tree matches no fingerprint and
// is dropped.
func (s *Source) build(ctx context.Context, in *input, path string, progress source.Progress) (err error) {
	unlock, err := cache.Lock(ctx, s.CacheDir, "debian.lock", func() { progress("waiting for another build", 0, 0) })
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return nil // another process has made it meanwhile
	}
	// Under the lock no other build is running, so every draft is abandoned.
	if err := cache.Sweep(s.CacheDir, keepBuilt-1, 0, isBuilt); err != nil {
		return err
	}
	draft, err := renameio.NewPendingFile(path, renameio.WithTempDir(s.CacheDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, draft.Cleanup()) }()
	packed, err := zstd.NewWriter(draft, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return err
	}
	if in.kept, err = keptIn(s.CacheDir); err != nil {
		return err
	}
	made := in.withNames(ctx, progress,
		func(ctx context.Context) error { return mmdebstrap(ctx, in, packed, progress) })
	if err := errors.Join(made, packed.Close()); err != nil {
		return err
	}
	if err := in.kept.add(ctx, progress); err != nil {
		return err
	}
	now, err := s.input(ctx, true)
	if err != nil {
		return err
	}
	if same, err := now.sameTree(in); err != nil || !same {
		progress("the archive was updated during the build", 0, 0)
		return err
	}
	return draft.CloseAtomicallyReplace()
}

// isBuilt reports whether a file of the cache is a tree.
func isBuilt(name string) bool {
	ok, err := filepath.Match(builtPrefix+"*"+builtSuffix, name)
	return ok && err == nil
}

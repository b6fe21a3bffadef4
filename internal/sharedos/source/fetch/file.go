package fetch

import (
	"context"
	"errors"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Open opens the file at a path, or else the one that a download brings, of at most limits.Content bytes.
func Open(ctx context.Context, path string, download *Download, cacheDir string, limits source.Limits,
	progress source.Progress) (*cache.File, error) {
	if download != nil {
		var err error
		if path, err = download.File(ctx, cacheDir, limits.OrDefault().Content, progress); err != nil {
			return nil, err
		}
	}
	return cache.OpenFile(path)
}

// Digest returns the digest of the file at a path, or else that of a download, which it does not start.
func Digest(ctx context.Context, path string, download *Download, cacheDir string) (_ tree.Digest, err error) {
	if download != nil {
		return download.Digest, nil
	}
	file, err := cache.OpenFile(path)
	if err != nil {
		return tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return file.Digest(ctx, cacheDir)
}

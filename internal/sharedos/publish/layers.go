package publish

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	goerofs "github.com/erofs/go-erofs"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// withTree calls use with the tree of a release, which this process prepared or which is in the store. The tree can be
// read until use returns. Every content is checked against its digest when it is read.
func (p *Publisher) withTree(ctx context.Context, id tree.Digest, use func(*release.Manifest, *tree.Tree) error) error {
	manifest, entries, entry, err := p.releaseTree(ctx, id)
	if err != nil {
		return err
	}
	content := &layered{paths: map[tree.Digest]string{}}
	for i := range entries {
		if e := &entries[i]; e.Type == tree.Regular {
			content.paths[e.Digest] = e.Path
		}
	}
	t, err := tree.New(entries, content)
	if err != nil {
		return fmt.Errorf("release %s: %w", id, err)
	}
	layers := placedIn(manifest, entry)
	if manifest.Kind != release.Base {
		below, entry, err := p.manifestOf(ctx, manifest.BuiltOn)
		if err != nil {
			return err
		}
		layers = append(placedIn(below, entry), layers...)
	}
	return p.withLayers(ctx, layers, content, func() error { return use(manifest, t) })
}

// placed is a layer, and the directory in the cache that has it as the newest of its release; "" if it is in the store.
type placed struct {
	release.Layer
	entry string
}

func placedIn(m *release.Manifest, entry string) []placed {
	layers := make([]placed, len(m.Layers))
	for i, one := range m.Layers {
		layers[i] = placed{Layer: one}
	}
	layers[len(layers)-1].entry = entry
	return layers
}

// manifestOf returns a release, and its directory in the cache if it is not published yet. What is published is read
// from the store: builds of others may have removed it from the cache.
func (p *Publisher) manifestOf(ctx context.Context, id tree.Digest) (*release.Manifest, string, error) {
	manifest, err := p.Get(ctx, id)
	if !errors.Is(err, store.ErrNotFound) {
		return manifest, "", err
	}
	if found, ok := p.offered().Load(id); ok {
		if prepared, ok := found.(*Prepared); ok && prepared.entry != "" {
			return prepared.Manifest, prepared.entry, nil
		}
	}
	return nil, "", err
}

// releaseTree returns what describes the tree of a release, and its directory in the cache if it is not published yet.
func (p *Publisher) releaseTree(ctx context.Context, id tree.Digest) (*release.Manifest, []tree.Entry, string, error) {
	manifest, entry, err := p.manifestOf(ctx, id)
	if err != nil {
		return nil, nil, "", err
	}
	var list []byte
	if entry != "" {
		_, list, err = p.Offer(ctx, id)
	} else {
		list, err = p.Store.GetBlob(ctx, manifest.Contents)
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf("read the contents list of release %s: %w", id, err)
	}
	entries, err := readContents(list)
	if err != nil {
		return nil, nil, "", fmt.Errorf("read the contents list of release %s: %w", id, err)
	}
	return manifest, entries, entry, nil
}

// withLayers opens layers, bottom to top, for content, and calls use.
func (p *Publisher) withLayers(ctx context.Context, layers []placed, content *layered, use func() error) error {
	if len(layers) == 0 {
		return use()
	}
	top, rest := layers[len(layers)-1], layers[:len(layers)-1]
	next := func(image io.ReaderAt) error {
		files, err := goerofs.Open(io.NewSectionReader(image, 0, top.DataSize))
		if err != nil {
			return fmt.Errorf("read layer %s: %w", top.ID, err)
		}
		content.layers = append(content.layers, files)
		return p.withLayers(ctx, rest, content, use)
	}
	if top.entry != "" {
		file, err := os.Open(filepath.Join(top.entry, layerFile))
		if err == nil {
			return errors.Join(next(file), file.Close())
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("read layer %s: %w", top.ID, err)
		}
	}
	err := p.Store.ReadLayer(ctx, top.Layer, next)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%w: %w; publish the base again", ErrDamagedStore, err)
	}
	return err
}

// layered is the content of a tree that is stored in layers.
type layered struct {
	// paths have one path for each content.
	paths map[tree.Digest]string
	// layers, top to bottom.
	layers []fs.FS
}

// Open implements tree.Content.
func (l *layered) Open(digest tree.Digest) (io.ReadCloser, error) {
	name, ok := l.paths[digest]
	if !ok {
		return nil, fmt.Errorf("no file has content %s", digest)
	}
	for _, files := range l.layers {
		file, err := files.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read /%s: %w", name, err)
		}
		return &checked{File: file, name: name, sum: sha256.New(), digest: digest}, nil
	}
	return nil, fmt.Errorf("no layer has /%s: %w", name, ErrDamagedStore)
}

// checked verifies the content of a file when it has been read to its end.
type checked struct {
	fs.File
	name   string
	sum    hash.Hash
	digest tree.Digest
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.File.Read(p)
	_, _ = c.sum.Write(p[:n]) // it never fails
	if errors.Is(err, io.EOF) && !slices.Equal(c.sum.Sum(nil), c.digest[:]) {
		return n, fmt.Errorf("/%s in the layers has other content than the release: %w", c.name, ErrDamagedStore)
	}
	return n, err
}

package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// layout is a directory in the OCI image layout.
type layout struct {
	dir string
	// name of an image in it, or its digest; empty if there is only one.
	name string
}

func (l layout) resolve(context.Context) (_ tree.Digest, err error) {
	var version ocispec.ImageLayout
	if err := l.readJSON(ocispec.ImageLayoutFile, &version); err != nil {
		return tree.Digest{}, err
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return tree.Digest{}, fmt.Errorf("image layout version %q, only %q is known: %w", source.Shorten(version.Version),
			ocispec.ImageLayoutVersion, source.ErrMalformed)
	}
	var index manifest
	if err := l.readJSON(ocispec.ImageIndexFile, &index); err != nil {
		return tree.Digest{}, err
	}
	var names []string
	for _, m := range index.Manifests {
		name := m.Annotations[ocispec.AnnotationRefName]
		if l.name == "" && len(index.Manifests) == 1 || l.name != "" && (l.name == name || l.name == m.Digest.String()) {
			return sha256Of(m.Digest)
		}
		if name == "" {
			name = m.Digest.String()
		}
		names = append(names, name)
	}
	list := source.Shorten(strings.Join(names, ", "))
	if l.name == "" {
		return tree.Digest{}, fmt.Errorf("it has %d images, so reference must name one of them: %s", len(names), list)
	}
	return tree.Digest{}, fmt.Errorf("it has no image %q, only %s", l.name, list)
}

func (l layout) readJSON(name string, into any) error {
	text, err := l.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, source.ErrMalformed)
	}
	return nil
}

func (l layout) read(name string) (_ []byte, err error) {
	file, err := cache.OpenFile(filepath.Join(l.dir, name))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxMetadata+1))
	if err == nil && len(text) > maxMetadata {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, maxMetadata, source.ErrLimit)
	}
	return text, err
}

func blobPath(digest tree.Digest) string { return filepath.Join("blobs", "sha256", digest.Hex()) }

func (l layout) metadata(_ context.Context, digest tree.Digest, _ bool) ([]byte, error) {
	text, err := l.read(blobPath(digest))
	if err == nil && tree.Sum(text) != digest {
		err = fmt.Errorf("it has the digest %s: %w", tree.Sum(text), source.ErrCorrupt)
	}
	return text, err
}

func (l layout) layer(_ context.Context, layer layer, _ func(int64)) (*os.File, error) {
	file, err := cache.OpenFile(filepath.Join(l.dir, blobPath(layer.digest)))
	if err != nil {
		return nil, err
	}
	return file.File, nil
}

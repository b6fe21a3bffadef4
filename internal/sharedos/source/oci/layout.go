package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// layout is an image in the OCI image layout, or in the format of "docker save".
type layout struct {
	files layoutFiles
	// name of an image in it, or its digest; empty if there is only one.
	name string
	// docker has the image of a file of "docker save"; nil in the OCI image layout.
	docker *dockerImage
}

// layoutFiles are the files of a layout: in a directory, or in a tar file.
type layoutFiles interface {
	// read returns a file of at most maxMetadata bytes; fs.ErrNotExist if there is none.
	read(ctx context.Context, name string) ([]byte, error)
	// prepare is called with the names of all files that open is called for.
	prepare(ctx context.Context, names []string) error
	open(ctx context.Context, name string) (*os.File, error)
}

// containerdName is the annotation in which Docker has the whole name of an image that it saves.
const containerdName = "io.containerd.image.name"

func (l *layout) resolve(ctx context.Context) (tree.Digest, error) {
	var version ocispec.ImageLayout
	err := l.readJSON(ctx, ocispec.ImageLayoutFile, &version)
	if errors.Is(err, fs.ErrNotExist) {
		docker, dockerErr := l.readDocker(ctx)
		switch {
		case errors.Is(dockerErr, fs.ErrNotExist):
			return tree.Digest{}, err
		case dockerErr != nil:
			return tree.Digest{}, dockerErr
		}
		l.docker = docker
		return tree.Sum(docker.manifest), nil
	}
	if err != nil {
		return tree.Digest{}, err
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return tree.Digest{},
			fmt.Errorf("image layout version %q, only %q is known: %w", source.Shorten(version.Version),
				ocispec.ImageLayoutVersion, source.ErrMalformed)
	}
	var index manifest
	if err := l.readJSON(ctx, ocispec.ImageIndexFile, &index); err != nil {
		return tree.Digest{}, err
	}
	var named []ocispec.Descriptor
	var names []string
	different := false
	for _, m := range images(index.Manifests) {
		name := m.Annotations[ocispec.AnnotationRefName]
		if l.name == "" || l.name == name || l.name == m.Annotations[containerdName] || l.name == m.Digest.String() {
			named = append(named, m)
			different = different || name != named[0].Annotations[ocispec.AnnotationRefName]
		}
		if name == "" {
			name = m.Digest.String()
		}
		names = append(names, name)
	}
	switch {
	case len(named) == 1:
		return sha256Of(named[0].Digest)
	case len(named) > 1 && !different && named[0].Platform != nil:
		return choosePlatform(named) // one image for several platforms
	case len(named) > 1:
		return tree.Digest{},
			fmt.Errorf("it has %d images, so reference must name one of them: %s", len(names),
				source.Shorten(strings.Join(names, ", ")))
	default:
		return tree.Digest{},
			fmt.Errorf("it has no image %q, only %s", source.Shorten(l.name), source.Shorten(strings.Join(names, ", ")))
	}
}

func (l *layout) readJSON(ctx context.Context, name string, into any) error {
	text, err := l.files.read(ctx, name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, source.ErrMalformed)
	}
	return nil
}

func blobPath(digest tree.Digest) string { return filepath.Join("blobs", "sha256", digest.Hex()) }

func (l *layout) metadata(ctx context.Context, digest tree.Digest, _ bool) ([]byte, error) {
	if l.docker != nil {
		return l.docker.metadata(digest)
	}
	text, err := l.files.read(ctx, blobPath(digest))
	if err == nil && tree.Sum(text) != digest {
		err = fmt.Errorf("it has the digest %s: %w", tree.Sum(text), source.ErrCorrupt)
	}
	return text, err
}

func (l *layout) fileOf(layer layer) string {
	if l.docker != nil {
		return l.docker.files[layer.digest]
	}
	return blobPath(layer.digest)
}

func (l *layout) prepare(ctx context.Context, layers []layer) error {
	if _, err := l.resolve(ctx); err != nil { // for the names of Docker's files
		return err
	}
	var names []string
	for _, layer := range layers {
		names = append(names, l.fileOf(layer))
	}
	return l.files.prepare(ctx, names)
}

func (l *layout) layer(ctx context.Context, layer layer, _ func(int64)) (*os.File, error) {
	return l.files.open(ctx, l.fileOf(layer))
}

// directory has the files of a layout in a directory.
type directory string

func (d directory) read(_ context.Context, name string) (_ []byte, err error) {
	file, err := cache.OpenFile(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return readMetadata(file, name)
}

func readMetadata(file io.Reader, name string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(file, maxMetadata+1))
	if err == nil && len(text) > maxMetadata {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, maxMetadata, source.ErrLimit)
	}
	return text, err
}

func (directory) prepare(context.Context, []string) error { return nil }

func (d directory) open(_ context.Context, name string) (*os.File, error) {
	file, err := cache.OpenFile(filepath.Join(string(d), name))
	if err != nil {
		return nil, err
	}
	return file.File, nil
}

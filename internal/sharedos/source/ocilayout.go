package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ociLayout is a directory in the OCI image layout.
type ociLayout struct {
	dir string
	// name of an image in it, or its digest; empty if there is only one.
	name string
}

func (l ociLayout) resolve(context.Context) (_ tree.Digest, err error) {
	var layout ocispec.ImageLayout
	if err := l.readJSON(ocispec.ImageLayoutFile, &layout); err != nil {
		return tree.Digest{}, err
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return tree.Digest{}, fmt.Errorf("image layout version %q, only %q is known: %w", shorten(layout.Version), ocispec.ImageLayoutVersion, ErrMalformed)
	}
	var index ociManifest
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
	if l.name == "" {
		return tree.Digest{}, fmt.Errorf("it has %d images, and one has to be named: %s", len(names), shorten(strings.Join(names, ", ")))
	}
	return tree.Digest{}, fmt.Errorf("it has no image %q, only %s", l.name, shorten(strings.Join(names, ", ")))
}

func (l ociLayout) readJSON(name string, into any) error {
	text, err := l.read(name)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, ErrMalformed)
	}
	return nil
}

func (l ociLayout) read(name string) (_ []byte, err error) {
	file, err := openRegular(filepath.Join(l.dir, name))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	text, err := io.ReadAll(io.LimitReader(file, maxImageMetadata+1))
	if err == nil && len(text) > maxImageMetadata {
		err = fmt.Errorf("%s has more than %d bytes: %w", name, maxImageMetadata, ErrLimit)
	}
	return text, err
}

func blobPath(digest tree.Digest) string { return filepath.Join("blobs", "sha256", digest.Hex()) }

func (l ociLayout) metadata(_ context.Context, digest tree.Digest, _ bool) ([]byte, error) {
	text, err := l.read(blobPath(digest))
	if err == nil && tree.Sum(text) != digest {
		err = fmt.Errorf("it has the digest %s: %w", tree.Sum(text), ErrCorrupt)
	}
	return text, err
}

func (l ociLayout) layer(_ context.Context, layer ociLayer, _ func(int64)) (*os.File, error) {
	return openRegular(filepath.Join(l.dir, blobPath(layer.digest)))
}

// openRegular opens a file that has to be a regular one.
func openRegular(path string) (*os.File, error) {
	// Not to wait for the writer of a named pipe.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file (%s)", path, info.Mode().Type())
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

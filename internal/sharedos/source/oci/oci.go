// Package oci reads the root file system of a container image, from a registry or from a directory in the OCI image
// layout (github.com/opencontainers/image-spec).
//
// Registries are spoken to by oras-go, but whiteouts are applied by this package. The libraries that apply them either
// write layers to a file system, which takes root and loses what that file system cannot store, or hold all contents.
// Here only names are in memory, and each layer is read twice.
package oci

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Source is the root file system of an image. Layers are applied as container engines apply them: whiteouts and opaque
// directories remove what lower layers have, a symbolic link in the path of an entry is followed inside the tree, and a
// file of another type replaces what was there.
//
// Everything is verified against its digest before it is used. If an index has images for several platforms, the one
// for Linux on this machine's architecture is used.
type Source struct {
	// Reference of an image in a registry: "registry.example.com/os/base:13", or with "@sha256:<64 hex>".
	// With Layout, the name of an image in it (its annotation org.opencontainers.image.ref.name) or a digest; it may be
	// empty if there is only one image.
	Reference string
	// Layout is a directory in the OCI image layout, or a tar file of one, or a file of "docker save", instead of a
	// registry. The tar file may be compressed.
	Layout string
	// Digest pins what Reference refers to: "sha256:<64 hex>", or empty. See Pin.
	Digest string
	// PlainHTTP selects HTTP without TLS. Nil selects it only for registries on this machine's loopback interface.
	PlainHTTP *bool
	// CacheDir is the directory for downloads.
	CacheDir string
	// Limits bound what the image may contain, compressed or not; zero values mean the defaults.
	Limits source.Limits

	mu   sync.Mutex
	seen *image
}

// image is what the manifest and the configuration of an image say.
type image struct {
	// digest is what the reference refers to: a manifest, or an index that leads to one.
	digest tree.Digest
	layers []layer
}

// layer is one layer of an image.
type layer struct {
	// digest and size are those of the layer as it is stored; diffID is the digest of its tar stream.
	digest, diffID tree.Digest
	size           int64
	mediaType      string
	// saved is true in a file of "docker save": the layer may be compressed, and only diffID is known.
	saved bool
}

// TarLimits returns the limits of the stream that Open returns.
func (s *Source) TarLimits() source.Limits { return s.Limits }

// String names the image for a user.
func (s *Source) String() string {
	if s.Layout != "" {
		return fmt.Sprintf("OCI layout %q", s.Layout)
	}
	return fmt.Sprintf("OCI image %q", s.Reference)
}

// Pin returns the digest that the reference refers to now: Digest if it is set, otherwise what the registry answers.
func (s *Source) Pin(ctx context.Context) (string, error) {
	image, err := s.image(ctx)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", s, err)
	}
	return image.digest.String(), nil
}

// Fingerprint returns "oci:sha256:<64 hex>", a digest of the digests of the layers; or
// "oci-file:sha256:<64 hex>:<image>" for a file, with the file's digest.
func (s *Source) Fingerprint(ctx context.Context) (string, error) {
	if info, err := os.Stat(s.Layout); s.Layout != "" && err == nil && !info.IsDir() {
		digest, err := fetch.Digest(ctx, s.Layout, nil, s.CacheDir)
		if err != nil {
			return "", fmt.Errorf("fingerprint %s: %w", s, err)
		}
		return "oci-file:" + digest.String() + ":" + s.Reference, nil
	}
	image, err := s.image(ctx)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", s, err)
	}
	sum := sha256.New()
	for _, layer := range image.layers {
		sum.Write(layer.digest[:])
	}
	return "oci:" + tree.Digest(sum.Sum(nil)).String(), nil
}

// resolveWait bounds how long it may take to read manifests.
const resolveWait = 2 * time.Minute

// image reads once what the image consists of.
func (s *Source) image(ctx context.Context) (*image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen != nil {
		return s.seen, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	from, err := s.storage()
	if err != nil {
		return nil, err
	}
	image, err := readImage(ctx, from)
	if err != nil {
		return nil, err
	}
	s.seen = image
	return image, nil
}

// spoolDir is the directory for files that have no names.
func (s *Source) spoolDir() string {
	if s.CacheDir != "" {
		return s.CacheDir
	}
	return os.TempDir()
}

// storage is where an image is stored: a registry or a layout.
type storage interface {
	// resolve returns the digest that the reference refers to.
	resolve(ctx context.Context) (tree.Digest, error)
	// metadata reads a manifest, an index or a configuration, verifies it, and bounds its size.
	metadata(ctx context.Context, digest tree.Digest, manifest bool) ([]byte, error)
	// layer opens a layer as it is stored. The caller has to verify it.
	layer(ctx context.Context, layer layer, progress func(int64)) (*os.File, error)
}

func (s *Source) storage() (storage, error) {
	if s.Layout != "" {
		info, err := os.Stat(s.Layout)
		switch {
		case err != nil:
			return nil, err
		case info.IsDir():
			return &layout{files: directory(s.Layout), name: s.Reference}, nil
		default:
			file := &layoutFile{path: s.Layout, spoolDir: s.spoolDir(), limits: s.Limits}
			return &layout{files: file, name: s.Reference}, nil
		}
	}
	if s.CacheDir == "" {
		return nil, errors.New("there is no cache directory")
	}
	return s.registry()
}

// Open returns the image as one tar stream. Layers are downloaded and verified before its first byte. Read and Close
// report their errors.
func (s *Source) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	image, err := s.image(ctx)
	if err != nil {
		return nil, source.Wrap(s, err)
	}
	from, err := s.storage()
	if err != nil {
		return nil, source.Wrap(s, err)
	}
	return tarstream.Pipe(ctx, s, func(ctx context.Context, out *tar.Writer) error {
		return writeImage(ctx, from, image, s.Limits.OrDefault(), progress, out)
	}), nil
}

// writeImage downloads the layers of an image and writes the tree that they result in.
func writeImage(ctx context.Context, from storage, image *image, limits source.Limits, progress source.Progress,
	out *tar.Writer) (err error) {
	var total int64
	for _, layer := range image.layers {
		total += layer.size
		if err := limits.CheckContent(max(layer.size, total)); err != nil {
			return fmt.Errorf("its layers: %w", err)
		}
	}
	if prepared, ok := from.(*layout); ok {
		if err := prepared.prepare(ctx, image.layers); err != nil {
			return err
		}
		if file, ok := prepared.files.(*layoutFile); ok {
			defer func() { err = errors.Join(err, file.close()) }()
		}
	}
	downloaded := progress.Counter("fetching the image", total)
	files := make([]*os.File, len(image.layers))
	defer func() {
		for _, file := range files {
			if file != nil {
				err = errors.Join(err, file.Close())
			}
		}
	}()
	for i, layer := range image.layers {
		if files[i], err = from.layer(ctx, layer, downloaded); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	merged := newMerged(limits)
	read := progress.Counter("reading the image", 2*total)
	for i, layer := range image.layers {
		if err := merged.apply(ctx, i, layer, files[i], read); err != nil {
			return fmt.Errorf("layer %d (%s): %w", i+1, layer.digest, err)
		}
	}
	if err := merged.writeOthers(out); err != nil {
		return err
	}
	for i, layer := range image.layers {
		if err := merged.writeContents(ctx, i, files[i], read, out); err != nil {
			return fmt.Errorf("layer %d (%s): %w", i+1, layer.digest, err)
		}
	}
	return nil
}

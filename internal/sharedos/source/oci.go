package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// OCI is the root file system of an image, from a registry or from a directory in the OCI image layout
// (github.com/opencontainers/image-spec). Its layers are laid over each other as container engines do it: whiteouts and
// opaque directories take away what lower layers have, a symbolic link in the path of an entry is followed inside of
// the tree, and another type of file replaces what was there.
//
// Everything is checked against its digest before anything of it is used. Of an index of several platforms, the
// image for Linux on this machine's architecture is taken.
type OCI struct {
	// Reference of an image in a registry: "registry.example.com/os/base:13", or with "@sha256:<64 hex>".
	// With Layout, the name of an image in it (its annotation org.opencontainers.image.ref.name) or a digest; empty
	// if there is only one.
	Reference string
	// Layout is a directory in the OCI image layout, instead of a registry.
	Layout string
	// Digest pins what Reference stands for: "sha256:<64 hex>", or empty. See Pin.
	Digest string
	// PlainHTTP asks for a registry without TLS. Nil: only if it is on this machine's loopback.
	PlainHTTP *bool
	// CacheDir is the directory in which what was fetched is kept.
	CacheDir string
	// Limits bound what the image may hold, also packed; zero values mean the defaults.
	Limits Limits

	mu   sync.Mutex
	seen *ociImage
}

// ociImage is what an image's manifest and configuration say.
type ociImage struct {
	// digest is that of what the reference stands for: a manifest, or an index that leads to one.
	digest tree.Digest
	layers []ociLayer
}

// ociLayer is one layer of an image.
type ociLayer struct {
	// digest and size are of the layer as it is stored; diff is the digest of its tar stream.
	digest, diff tree.Digest
	size         int64
	descriptor   ocispec.Descriptor
}

// TarLimits are the limits of what Open yields.
func (o *OCI) TarLimits() Limits { return o.Limits }

// String names the image for a user.
func (o *OCI) String() string {
	if o.Layout != "" {
		return fmt.Sprintf("OCI layout %q", o.Layout)
	}
	return fmt.Sprintf("OCI image %q", o.Reference)
}

// Pin returns the digest that the reference stands for now: Digest, if that is set. It asks the registry.
func (o *OCI) Pin(ctx context.Context) (string, error) {
	image, err := o.image(ctx)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", o, err)
	}
	return image.digest.String(), nil
}

// Fingerprint is "oci:sha256:<64 hex>", a digest of the digests of the layers.
func (o *OCI) Fingerprint(ctx context.Context) (string, error) {
	image, err := o.image(ctx)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", o, err)
	}
	sum := newHash()
	for _, layer := range image.layers {
		sum.Write(layer.digest[:])
	}
	return "oci:" + sumOf(sum).String(), nil
}

// maxPlanFetch is how many bytes a plan may fetch.
const maxPlanFetch = 256 << 20

// ReadableAtPlan reports whether at most 256 MiB of the image have to be fetched.
func (o *OCI) ReadableAtPlan() bool {
	ctx, cancel := context.WithTimeout(context.Background(), planWait)
	defer cancel()
	image, err := o.image(ctx)
	if err != nil {
		return false
	}
	var missing int64
	for _, layer := range image.layers {
		if o.Layout != "" {
			continue
		}
		if has, err := o.blobs().has(layer.digest); err != nil || !has {
			missing += layer.size
		}
	}
	return missing <= maxPlanFetch
}

func (o *OCI) blobs() blobCache { return downloads(o.CacheDir) }

// image reads what the image consists of, once.
func (o *OCI) image(ctx context.Context) (*ociImage, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.seen != nil {
		return o.seen, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveWait)
	defer cancel()
	from, err := o.place(ctx)
	if err != nil {
		return nil, err
	}
	image, err := readImage(ctx, from)
	if err != nil {
		return nil, err
	}
	o.seen = image
	return image, nil
}

// resolveWait bounds how long it may take to read manifests.
const resolveWait = 2 * time.Minute

// ociPlace is where an image is: a registry or a layout.
type ociPlace interface {
	// resolve finds the digest that the reference stands for.
	resolve(ctx context.Context) (tree.Digest, error)
	// metadata reads a manifest, an index or a configuration of bounded size. A manifest need not have a descriptor.
	metadata(ctx context.Context, digest tree.Digest, manifest bool) ([]byte, error)
	// layer opens a layer as it is stored; nobody has checked it yet.
	layer(ctx context.Context, layer ociLayer, tell func(int64)) (*os.File, error)
}

func (o *OCI) place(ctx context.Context) (ociPlace, error) {
	if o.Layout != "" {
		return ociLayout{dir: o.Layout, name: o.Reference}, nil
	}
	if o.CacheDir == "" {
		return nil, errors.New("there is no cache directory")
	}
	return o.registry(ctx)
}

// Open yields the image as one tar stream. Layers are fetched and checked before its first byte; what is wrong with
// them, Read and Close report.
func (o *OCI) Open(ctx context.Context, progress Progress) (io.ReadCloser, error) {
	image, err := o.image(ctx)
	if err != nil {
		return nil, &sourceError{source: o, err: err}
	}
	from, err := o.place(ctx)
	if err != nil {
		return nil, &sourceError{source: o, err: err}
	}
	return newTarPipe(ctx, o, func(ctx context.Context, out *tar.Writer) error {
		return writeImage(ctx, from, image, o.Limits.withDefaults(), progress, out)
	}), nil
}

// writeImage fetches the layers of an image and writes the tree that they make.
func writeImage(ctx context.Context, from ociPlace, image *ociImage, limits Limits, progress Progress, out *tar.Writer) (err error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	var total int64
	for _, layer := range image.layers {
		if total += layer.size; layer.size > limits.Content || total > limits.Content {
			return fmt.Errorf("its layers have more than %d bytes: %w; raise the limit if this is meant to be one "+
				"operating system", limits.Content, ErrLimit)
		}
	}
	fetched := part(progress, "fetching the image", total)
	files := make([]*os.File, len(image.layers))
	defer func() {
		for _, file := range files {
			if file != nil {
				err = errors.Join(err, file.Close())
			}
		}
	}()
	for i, layer := range image.layers {
		if files[i], err = from.layer(ctx, layer, fetched); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	merged := newMerged(limits)
	read := part(progress, "reading the image", 2*total)
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

// part is progress of one step of a known total of bytes, told once a megabyte.
func part(progress Progress, step string, total int64) func(more int64) {
	var done, shown int64
	return func(more int64) {
		if done += more; done-shown >= 1<<20 || done == total {
			shown = done
			progress(step, min(done, total), total)
		}
	}
}

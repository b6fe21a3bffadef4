package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// maxMetadata bounds a manifest, an index or a configuration in bytes.
	maxMetadata = 4 << 20
	// maxLayers bounds the layers of an image.
	maxLayers = 500
	// maxIndexDepth bounds how many indexes may lead to an image.
	maxIndexDepth = 4
)

// manifest is what this package reads of a manifest or an index, in the format of OCI or of Docker (image manifest
// version 2, schema 2). Both use the same names.
type manifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
}

// layerTypes are the media types of tar layers, without the suffix of a compression. The compression itself is detected
// from a layer's first bytes.
var layerTypes = []string{
	"application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar",
}

// compressions are the suffixes of media types of compressed layers, in the notation of OCI and of Docker.
var compressions = []string{"+gzip", "+zstd", ".gzip", ".zstd"}

// readImage follows a reference to the image for this machine's architecture.
func readImage(ctx context.Context, from storage) (*image, error) {
	at, err := from.resolve(ctx)
	if err != nil {
		return nil, err
	}
	image := &image{digest: at}
	for range maxIndexDepth {
		text, err := from.metadata(ctx, at, true)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", at, err)
		}
		var m manifest
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("manifest %s: %w: %w", at, err, source.ErrMalformed)
		}
		switch {
		case m.SchemaVersion != 2:
			return nil, fmt.Errorf("manifest %s has schema version %d, only 2 is known: %w", at,
				m.SchemaVersion, source.ErrMalformed)
		case len(m.Manifests) > 0 && len(m.Layers) > 0:
			// It is ambiguous: two programs could read different images from it.
			return nil, fmt.Errorf("manifest %s is an index and an image: %w", at, source.ErrMalformed)
		case len(m.Manifests) > 0:
			chosen, err := choosePlatform(m.Manifests)
			if err != nil {
				return nil, fmt.Errorf("index %s: %w", at, err)
			}
			at = chosen
			continue
		}
		if image.layers, err = readLayers(ctx, from, m); err != nil {
			return nil, fmt.Errorf("image %s: %w", at, err)
		}
		if file, ok := from.(*layout); ok && file.docker != nil {
			for i := range image.layers {
				image.layers[i].saved = true
			}
		}
		return image, nil
	}
	return nil, fmt.Errorf("more than %d indexes lead to it: %w", maxIndexDepth, source.ErrLimit)
}

// configTypes are the media types of configurations of images. An index may repeat them as types of artifacts.
var configTypes = []string{ocispec.MediaTypeImageConfig, "application/vnd.docker.container.image.v1+json"}

// images leaves out entries of an index that are no images: attestations of BuildKit, whose
// platform is "unknown/unknown", and artifacts such as signatures.
func images(manifests []ocispec.Descriptor) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(manifests), func(m ocispec.Descriptor) bool {
		return m.ArtifactType != "" && !slices.Contains(configTypes, m.ArtifactType) ||
			m.Annotations["vnd.docker.reference.type"] != "" ||
			m.Platform != nil && m.Platform.OS == "unknown" && m.Platform.Architecture == "unknown"
	})
}

// choosePlatform returns the image for Linux on this machine's architecture.
func choosePlatform(manifests []ocispec.Descriptor) (tree.Digest, error) {
	var platforms []string
	for _, m := range manifests {
		if m.Platform == nil {
			platforms = append(platforms, "one without a platform")
			continue
		}
		if m.Platform.OS == "linux" && m.Platform.Architecture == runtime.GOARCH {
			return sha256Of(m.Digest)
		}
		platforms = append(platforms, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	if only := images(manifests); len(only) == 1 && only[0].Platform == nil {
		return sha256Of(only[0].Digest)
	}
	return tree.Digest{},
		fmt.Errorf("no image for linux/%s, only %s", runtime.GOARCH, source.Shorten(strings.Join(platforms, ", ")))
}

// sha256Of converts a digest of an image. No other algorithm is supported.
func sha256Of(d digest.Digest) (tree.Digest, error) {
	parsed, err := tree.ParseDigest(d.String())
	if err != nil {
		return parsed, fmt.Errorf("%w: %w", err, source.ErrMalformed)
	}
	return parsed, nil
}

// readLayers reads the layers of a manifest, and from its configuration the digests of their tar streams.
func readLayers(ctx context.Context, from storage, m manifest) ([]layer, error) {
	if len(m.Layers) == 0 || len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%d layers, from 1 to %d are possible: %w", len(m.Layers),
			maxLayers, source.ErrMalformed)
	}
	config, err := sha256Of(m.Config.Digest)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	text, err := from.metadata(ctx, config, false)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", config, err)
	}
	var c ocispec.Image
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w: %w", config, err, source.ErrMalformed)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != runtime.GOARCH {
		return nil, fmt.Errorf("it is for %s, not for linux/%s",
			source.Shorten(c.OS+"/"+c.Architecture), runtime.GOARCH)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("%d layers in the manifest, %d in the configuration: %w", len(m.Layers),
			len(c.RootFS.DiffIDs), source.ErrMalformed)
	}
	layers := make([]layer, len(m.Layers))
	for i, descriptor := range m.Layers {
		if !isLayerType(descriptor.MediaType) {
			return nil, fmt.Errorf("layer %d is of the type %q, and only tar layers can be read", i+1,
				source.Shorten(descriptor.MediaType))
		}
		digest, err := sha256Of(descriptor.Digest)
		diffID, diffErr := sha256Of(c.RootFS.DiffIDs[i])
		if descriptor.Size < 0 {
			err = errors.Join(err, fmt.Errorf("%d bytes: %w", descriptor.Size, source.ErrMalformed))
		}
		if err := errors.Join(err, diffErr); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		layers[i] = layer{digest: digest, diffID: diffID, size: descriptor.Size, mediaType: descriptor.MediaType}
	}
	return layers, nil
}

func isLayerType(mediaType string) bool {
	for _, plain := range layerTypes {
		if suffix, ok := strings.CutPrefix(mediaType, plain); ok &&
			(suffix == "" || slices.Contains(compressions, suffix)) {
			return true
		}
	}
	return false
}

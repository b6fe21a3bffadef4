package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// maxImageMetadata bounds a manifest, an index or a configuration in bytes, maxLayers the layers of an image,
	// maxIndexDepth how many indexes may lead to it.
	maxImageMetadata = 4 << 20
	maxImageLayers   = 500
	maxIndexDepth    = 4
)

// ociManifest is what this package reads of a manifest or an index, be it OCI's or Docker's (image manifest version 2,
// schema 2): they name these alike.
type ociManifest struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        ocispec.Descriptor   `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
}

// layerTypes are the media types of layers that are tar streams, whatever packs them: that shows in their first bytes.
var layerTypes = []string{
	"application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar",
}

// readImage follows a reference to the image of this machine's architecture.
func readImage(ctx context.Context, from ociPlace) (*ociImage, error) {
	at, err := from.resolve(ctx)
	if err != nil {
		return nil, err
	}
	image := &ociImage{digest: at}
	for range maxIndexDepth {
		text, err := from.metadata(ctx, at, true)
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", at, err)
		}
		var m ociManifest
		if err := json.Unmarshal(text, &m); err != nil {
			return nil, fmt.Errorf("manifest %s: %w: %w", at, err, ErrMalformed)
		}
		switch {
		case m.SchemaVersion != 2:
			return nil, fmt.Errorf("manifest %s has schema version %d, only 2 is known: %w", at, m.SchemaVersion, ErrMalformed)
		case len(m.Manifests) > 0 && len(m.Layers) > 0:
			// Either could be meant, and two readers would take different ones.
			return nil, fmt.Errorf("manifest %s is an index and an image: %w", at, ErrMalformed)
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
		return image, nil
	}
	return nil, fmt.Errorf("more than %d indexes lead to it: %w", maxIndexDepth, ErrLimit)
}

// choosePlatform finds the image for Linux on this machine's architecture.
func choosePlatform(manifests []ocispec.Descriptor) (tree.Digest, error) {
	var have []string
	for _, m := range manifests {
		if m.Platform == nil {
			have = append(have, "one of no platform")
			continue
		}
		if m.Platform.OS == "linux" && m.Platform.Architecture == runtime.GOARCH {
			return sha256Of(m.Digest)
		}
		have = append(have, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	if len(manifests) == 1 && manifests[0].Platform == nil {
		return sha256Of(manifests[0].Digest)
	}
	return tree.Digest{}, fmt.Errorf("no image for linux/%s, only %s", runtime.GOARCH, shorten(strings.Join(have, ", ")))
}

// sha256Of takes over a digest of an image, of which other algorithms are not read.
func sha256Of(d digest.Digest) (tree.Digest, error) {
	parsed, err := tree.ParseDigest(d.String())
	if err != nil {
		return parsed, fmt.Errorf("%w: %w", err, ErrMalformed)
	}
	return parsed, nil
}

// readLayers reads the layers of a manifest and, from its configuration, the digests of their tar streams.
func readLayers(ctx context.Context, from ociPlace, m ociManifest) ([]ociLayer, error) {
	if len(m.Layers) == 0 || len(m.Layers) > maxImageLayers {
		return nil, fmt.Errorf("%d layers, from 1 to %d are possible: %w", len(m.Layers), maxImageLayers, ErrMalformed)
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
		return nil, fmt.Errorf("configuration %s: %w: %w", config, err, ErrMalformed)
	}
	if c.OS != "" && c.OS != "linux" || c.Architecture != "" && c.Architecture != runtime.GOARCH {
		return nil, fmt.Errorf("it is for %s, not for linux/%s", shorten(c.OS+"/"+c.Architecture), runtime.GOARCH)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("%d layers in the manifest, %d in the configuration: %w", len(m.Layers), len(c.RootFS.DiffIDs), ErrMalformed)
	}
	layers := make([]ociLayer, len(m.Layers))
	for i, descriptor := range m.Layers {
		if !isLayerType(descriptor.MediaType) {
			return nil, fmt.Errorf("layer %d is of the type %q, and only tar layers can be read", i+1, shorten(descriptor.MediaType))
		}
		digest, err := sha256Of(descriptor.Digest)
		diff, diffErr := sha256Of(c.RootFS.DiffIDs[i])
		if descriptor.Size < 0 {
			err = errors.Join(err, fmt.Errorf("%d bytes: %w", descriptor.Size, ErrMalformed))
		}
		if err := errors.Join(err, diffErr); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		layers[i] = ociLayer{digest: digest, diff: diff, size: descriptor.Size, descriptor: descriptor}
	}
	return layers, nil
}

func isLayerType(mediaType string) bool {
	for _, known := range layerTypes {
		if mediaType == known || mediaType == known+"+gzip" || mediaType == known+"+zstd" || mediaType == known+".gzip" || mediaType == known+".zstd" {
			return true
		}
	}
	return false
}

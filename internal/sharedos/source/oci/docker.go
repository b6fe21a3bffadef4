package oci

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// dockerManifest is the file in which "docker save" lists the images of an archive
// (github.com/moby/docker-image-spec, v1.2, "Combined Image JSON + Filesystem Changeset Format").
const dockerManifest = "manifest.json"

// savedImage is one image in it. Layers are names of files, from the lowest to the highest.
type savedImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerImage is a saved image with a manifest in the form that registries have. Layers are named
// by the digests of their tar streams, which the configuration has.
type dockerImage struct {
	manifest, config []byte
	// files are the names of the layers' files.
	files map[tree.Digest]string
}

func (l *layout) readDocker(ctx context.Context) (*dockerImage, error) {
	var saved []savedImage
	if err := l.readJSON(ctx, dockerManifest, &saved); err != nil {
		return nil, err
	}
	var chosen []savedImage
	for _, one := range saved {
		if l.name == "" || slices.Contains(one.RepoTags, l.name) || l.name == "sha256:"+path.Base(one.Config) ||
			l.name+".json" == "sha256:"+one.Config {
			chosen = append(chosen, one)
		}
	}
	if len(chosen) != 1 {
		var names []string
		for _, one := range saved {
			names = append(names, one.RepoTags...)
		}
		return nil, fmt.Errorf("it has %d images that fit, so reference must name one of them: %s", len(chosen),
			source.Shorten(fmt.Sprint(names)))
	}
	config, err := l.files.read(ctx, path.Clean(chosen[0].Config))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	var c ocispec.Image
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("configuration: %w: %w", err, source.ErrMalformed)
	}
	if len(c.RootFS.DiffIDs) != len(chosen[0].Layers) {
		return nil, fmt.Errorf("%d layers in the list, %d in the configuration: %w", len(chosen[0].Layers),
			len(c.RootFS.DiffIDs), source.ErrMalformed)
	}
	image := &dockerImage{config: config, files: map[tree.Digest]string{}}
	m := manifest{SchemaVersion: 2, Config: ocispec.Descriptor{Digest: digest.Digest(tree.Sum(config).String())}}
	sizes, _ := l.files.(interface{ size(name string) int64 })
	for i, name := range chosen[0].Layers {
		id, err := sha256Of(c.RootFS.DiffIDs[i])
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i+1, err)
		}
		image.files[id] = path.Clean(name)
		described := ocispec.Descriptor{MediaType: layerTypes[1], Digest: c.RootFS.DiffIDs[i]}
		if sizes != nil {
			described.Size = sizes.size(path.Clean(name))
		}
		m.Layers = append(m.Layers, described)
	}
	image.manifest, err = json.Marshal(m)
	return image, err
}

func (i *dockerImage) metadata(digest tree.Digest) ([]byte, error) {
	for _, text := range [][]byte{i.manifest, i.config} {
		if tree.Sum(text) == digest {
			return text, nil
		}
	}
	return nil, fmt.Errorf("it has no %s: %w", digest, source.ErrMalformed)
}

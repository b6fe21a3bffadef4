package sourcetest

import (
	"bytes"
	"io"
	"runtime"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image returns a container image of layers, which are compressed with gzip.
func Image(t *testing.T, layers ...[]Item) v1.Image {
	t.Helper()
	var all []v1.Layer
	for _, items := range layers {
		stream := Tar(t, items...)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser,
			error) {
			return io.NopCloser(bytes.NewReader(stream)), nil
		})
		Must(t, err)
		all = append(all, layer)
	}
	return ImageOfLayers(t, all...)
}

// ImageOfLayers returns a container image for this machine's architecture.
func ImageOfLayers(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	Must(t, err)
	config, err := image.ConfigFile()
	Must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, config)
	Must(t, err)
	return image
}

// Layout writes images by name into a directory in the OCI image layout, and returns the directory.
func Layout(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	dir := TempDir(t)
	at, err := layout.Write(dir, empty.Index)
	Must(t, err)
	for name, image := range images {
		Must(t, at.AppendImage(image,
			layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})))
	}
	return dir
}

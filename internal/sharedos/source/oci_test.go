package source_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// imageOf makes an image of layers, packed with gzip as an engine packs them.
func imageOf(t *testing.T, layers ...[]item) v1.Image {
	t.Helper()
	var all []v1.Layer
	for _, items := range layers {
		stream := makeTar(t, items...)
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(stream)), nil })
		must(t, err)
		all = append(all, layer)
	}
	return imageOfLayers(t, all...)
}

func imageOfLayers(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	config, err := image.ConfigFile()
	must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	return image
}

// layoutOf writes images by name into a directory in the OCI image layout.
func layoutOf(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	must(t, err)
	for name, image := range images {
		must(t, at.AppendImage(image, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})))
	}
	return dir
}

// describe lists a tree as "path content", "path/" or "path -> target".
func describe(t *testing.T, tr *tree.Tree) []string {
	t.Helper()
	var all []string
	for _, e := range tr.Entries {
		switch e.Type {
		case tree.Directory:
			all = append(all, e.Path+"/")
		case tree.Symlink:
			all = append(all, e.Path+" -> "+e.Link)
		case tree.Regular:
			data, err := tr.ReadFile(e.Path, 1<<20)
			must(t, err)
			all = append(all, e.Path+" "+string(data))
		default:
			all = append(all, e.Path+" "+e.Type.String())
		}
	}
	return all
}

func TestOCILayersAreLaidOverEachOther(t *testing.T) {
	whiteout := func(p string) item { return fileItem(p, "") }
	for name, c := range map[string]struct {
		layers [][]item
		want   []string
	}{
		"the later file wins": {
			[][]item{{fileItem("a", "1"), fileItem("b", "1")}, {fileItem("a", "2")}},
			[]string{"./", "a 2", "b 1"},
		},
		"a whiteout removes a file": {
			[][]item{{fileItem("d/a", "1"), fileItem("d/b", "1")}, {whiteout("d/.wh.a")}},
			[]string{"./", "d/", "d/b 1"},
		},
		"a whiteout removes a directory with all in it": {
			[][]item{{fileItem("d/e/f", "1"), fileItem("x", "1")}, {whiteout(".wh.d")}},
			[]string{"./", "x 1"},
		},
		"a whiteout spares what its own layer has, before it and after it": {
			[][]item{{fileItem("d/a", "1"), fileItem("d/b", "1")}, {fileItem("d/a", "2"), whiteout("d/.wh.a"), whiteout("d/.wh.b"), fileItem("d/b", "2")}},
			[]string{"./", "d/", "d/a 2", "d/b 2"},
		},
		"a whiteout of a directory spares what its own layer has in it": {
			[][]item{{fileItem("d/a", "1")}, {fileItem("d/new", "2"), whiteout(".wh.d")}},
			[]string{"./", "d/", "d/new 2"},
		},
		"a whiteout of nothing is nothing": {
			[][]item{{fileItem("a", "1")}, {whiteout(".wh.b"), whiteout("none/.wh.b"), whiteout("none/.wh..wh..opq")}},
			[]string{"./", "a 1"},
		},
		"what was removed can come back": {
			[][]item{{fileItem("d/a", "1")}, {whiteout(".wh.d")}, {fileItem("d/b", "3")}},
			[]string{"./", "d/", "d/b 3"},
		},
		"an opaque directory hides what lower layers have": {
			[][]item{{fileItem("d/a", "1"), fileItem("d/e/f", "1")}, {dirItem("d/"), fileItem("d/b", "2"), whiteout("d/.wh..wh..opq"), fileItem("d/c", "2")}},
			[]string{"./", "d/", "d/b 2", "d/c 2"},
		},
		"AUFS's own records are nothing": {
			[][]item{{fileItem("a", "1"), fileItem(".wh..wh.aufs", ""), dirItem(".wh..wh.plnk/")}},
			[]string{"./", "a 1"},
		},
		"a file replaces a directory": {
			[][]item{{fileItem("d/a", "1")}, {fileItem("d", "2")}},
			[]string{"./", "d 2"},
		},
		"a directory replaces a file": {
			[][]item{{fileItem("d", "1")}, {fileItem("d2", "1"), dirItem("d/"), fileItem("d/a", "2")}},
			[]string{"./", "d/", "d/a 2", "d2 1"},
		},
		"a directory replaces a link": {
			[][]item{{dirItem("to/"), linkItem("l", "to")}, {dirItem("l/"), fileItem("l/a", "2")}},
			[]string{"./", "l/", "l/a 2", "to/"},
		},
		"a link in the path of a file is followed inside of the tree": {
			[][]item{{dirItem("usr/lib/"), linkItem("lib", "/../usr/lib"), linkItem("usr/lib64", "../lib")}, {fileItem("lib/a", "2"), fileItem("usr/lib64/b", "2"), whiteout("lib/.wh.c")}},
			[]string{"./", "lib -> /../usr/lib", "usr/", "usr/lib/", "usr/lib/a 2", "usr/lib/b 2", "usr/lib64 -> ../lib"},
		},
		"a link leads to a directory that is made": {
			[][]item{{linkItem("a", "../../etc")}, {fileItem("a/evil", "2")}},
			[]string{"./", "a -> ../../etc", "etc/", "etc/evil 2"},
		},
		"hard links within and across layers": {
			[][]item{{fileItem("a", "1"), hardItem("b", "a"), linkItem("s", "a"), hardItem("s2", "s")}, {hardItem("c", "b"), fileItem("a", "2"), hardItem("d", "a")}},
			[]string{"./", "a 2", "b 1", "c 1", "d 2", "s -> a", "s2 -> a"},
		},
		"a hard link keeps what its target loses": {
			[][]item{{fileItem("d/a", "1"), hardItem("b", "d/a")}, {whiteout(".wh.d")}},
			[]string{"./", "b 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := layoutOf(t, map[string]v1.Image{"it": imageOf(t, c.layers...)})
			tr, done, err := readSource(t, &source.OCI{Layout: dir})
			must(t, err)
			if got := describe(t, tr); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			must(t, done())
		})
	}
}

func TestOCILayersKeepAllOfAnEntry(t *testing.T) {
	ping := fileItem("ping", "ping")
	ping.Mode, ping.Uid, ping.Gid = 0o4755, 4_000_000_000, 5
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}
	null := item{Header: tar.Header{Name: "dev/null\xff", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3}}
	dir := layoutOf(t, map[string]v1.Image{"it": imageOf(t, []item{ping, null}, []item{hardItem("ping6", "ping")})})
	tr, done, err := readSource(t, &source.OCI{Layout: dir})
	must(t, err)
	defer func() { must(t, done()) }()
	want := tree.Entry{
		Path: "ping", Type: tree.Regular, Mode: 0o4755, UID: 4_000_000_000, GID: 5, Size: 4, Digest: tree.Sum([]byte("ping")),
		Xattrs: map[string]string{"security.capability": "\x01\x00"},
	}
	for _, want.Path = range []string{"ping", "ping6"} {
		if e, ok := tr.Lookup(want.Path); !ok || !tree.Equal(*e, want) {
			t.Errorf("got %+v\nwant %+v", e, want)
		}
	}
	if e, ok := tr.Lookup("dev/null\xff"); !ok || e.Type != tree.CharDevice || e.Major != 1 || e.Minor != 3 {
		t.Errorf("device %+v", e)
	}
}

func TestOCIRefusesHostileLayers(t *testing.T) {
	for name, c := range map[string]struct {
		layers [][]item
		err    error
		want   string
	}{
		"dot dot":                {[][]item{{fileItem("../evil", "")}}, source.ErrRefused, `"../evil"`},
		"dot dot whiteout":       {[][]item{{fileItem("a/.wh...", "")}}, source.ErrRefused, "whiteout of no name"},
		"whiteout of nothing":    {[][]item{{fileItem(".wh.", "")}}, source.ErrRefused, "whiteout of no name"},
		"below a file":           {[][]item{{fileItem("a", "")}, {fileItem("a/evil", "")}}, source.ErrRefused, `layer 2`},
		"a circle of links":      {[][]item{{linkItem("a", "b"), linkItem("b", "a")}, {fileItem("a/evil", "")}}, source.ErrRefused, "too many symbolic links"},
		"two types in one layer": {[][]item{{fileItem("a", ""), linkItem("a", "b")}}, source.ErrRefused, "was a regular file"},
		"hard link to nothing":   {[][]item{{hardItem("a", "none")}}, source.ErrRefused, `"none"`},
		"hard link to directory": {[][]item{{dirItem("d/"), hardItem("a", "d")}}, source.ErrRefused, `directory "d"`},
		"root as a link":         {[][]item{{linkItem("./", "etc")}}, source.ErrRefused, "the root"},
		"unpacks to too much":    {[][]item{{fileItem("a", strings.Repeat("\x00", 600_000))}, {fileItem("b", strings.Repeat("\x00", 600_000))}}, source.ErrLimit, `"b": more than 1000000 bytes`},
		"too many entries":       {[][]item{{fileItem("a/b/c/d/e", ""), fileItem("f", "")}, {fileItem("g/h", "")}}, source.ErrLimit, `"g/h": more than 7 entries`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := layoutOf(t, map[string]v1.Image{"it": imageOf(t, c.layers...)})
			image := &source.OCI{Layout: dir, Limits: source.Limits{Content: 1_000_000, Entries: 7}}
			_, _, err := readSource(t, image)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %v that says %s", err, c.err, c.want)
			}
		})
	}
}

func TestOCILayoutChoosesTheImageThatIsNamed(t *testing.T) {
	one, two := imageOf(t, []item{fileItem("a", "1")}), imageOf(t, []item{fileItem("a", "2")})
	digest, err := two.Digest()
	must(t, err)
	dir := layoutOf(t, map[string]v1.Image{"one": one, "two": two})
	for reference, want := range map[string]string{"one": "a 1", "two": "a 2", digest.String(): "a 2"} {
		tr, done, err := readSource(t, &source.OCI{Layout: dir, Reference: reference})
		must(t, err)
		if got := describe(t, tr); got[1] != want {
			t.Errorf("%s: got %q, want %q", reference, got, want)
		}
		must(t, done())
	}
	for reference, want := range map[string]string{"": "it has 2 images", "three": `no image "three"`} {
		if _, err := (&source.OCI{Layout: dir, Reference: reference}).Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that says %s", reference, err, want)
		}
	}
	if _, err := (&source.OCI{Layout: t.TempDir()}).Fingerprint(t.Context()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "oci-layout") {
		t.Errorf("a directory that is no layout: %v", err)
	}
}

func TestOCITakesTheImageOfThisArchitecture(t *testing.T) {
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageOf(t, []item{fileItem("a", "other")}), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: imageOf(t, []item{fileItem("a", "none")}), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: imageOf(t, []item{fileItem("a", "this")}), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
	)
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, at.AppendIndex(index))
	tr, done, err := readSource(t, &source.OCI{Layout: dir})
	must(t, err)
	if got := describe(t, tr); got[1] != "a this" {
		t.Errorf("got %q", got)
	}
	must(t, done())

	// A registry's tag is pinned to the index, and that leads to the same image later, without asking again.
	h, cache := newHub(t), t.TempDir()
	to, err := name.ParseReference(h.reference("13"))
	must(t, err)
	must(t, remote.WriteIndex(to, index))
	digest, err := index.Digest()
	must(t, err)
	pinned, err := (&source.OCI{Reference: h.reference("13"), CacheDir: cache}).Pin(t.Context())
	if must(t, err); pinned != digest.String() {
		t.Errorf("pinned %s, want the index's %s", pinned, digest)
	}
	for range 2 {
		h.forget()
		tr, done, err = readSource(t, &source.OCI{Reference: h.reference("13"), Digest: pinned, CacheDir: cache})
		must(t, err)
		if got := describe(t, tr); got[1] != "a this" {
			t.Errorf("from a registry: got %q", got)
		}
		must(t, done())
	}
	if n := h.count(""); n != 0 {
		t.Errorf("the registry was asked again: %q", h.asked)
	}

	must(t, at.ReplaceIndex(mutate.RemoveManifests(index, func(d v1.Descriptor) bool { return d.Platform.Architecture == runtime.GOARCH }),
		func(v1.Descriptor) bool { return true }))
	if _, err := (&source.OCI{Layout: dir}).Fingerprint(t.Context()); err == nil || strings.Contains(err.Error(), strings.Repeat("0", 64)) ||
		!strings.Contains(err.Error(), "no image for linux/"+runtime.GOARCH+", only linux/s390x, unknown/unknown") {
		t.Errorf("got %v, want the index and what it has", err)
	}
}

func TestOCIRefusesAnImageOfAnotherPlatform(t *testing.T) {
	for platform, change := range map[string]func(*v1.ConfigFile){
		"linux/s390x":               func(c *v1.ConfigFile) { c.Architecture = "s390x" },
		"windows/" + runtime.GOARCH: func(c *v1.ConfigFile) { c.OS = "windows" },
	} {
		image := imageOf(t, []item{fileItem("a", "1")})
		config, err := image.ConfigFile()
		must(t, err)
		change(config)
		image, err = mutate.ConfigFile(image, config)
		must(t, err)
		dir := layoutOf(t, map[string]v1.Image{"it": image})
		if _, err := (&source.OCI{Layout: dir}).Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), "it is for "+platform) {
			t.Errorf("%s: %v", platform, err)
		}
	}
}

func TestOCISeesEveryDamage(t *testing.T) {
	dir := layoutOf(t, map[string]v1.Image{"it": imageOf(t, []item{fileItem("a", strings.Repeat("content ", 1000))})})
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	must(t, err)
	for _, blob := range blobs {
		whole, err := os.ReadFile(blob)
		must(t, err)
		damaged := slices.Clone(whole)
		damaged[len(damaged)/2] ^= 1
		for what, bytes := range map[string][]byte{
			"a flipped bit": damaged, "cut off": whole[:len(whole)-1], "a byte more": append(slices.Clone(whole), 0), "empty": nil,
		} {
			must(t, os.WriteFile(blob, bytes, 0o600))
			if _, _, err := readSource(t, &source.OCI{Layout: dir}); !errors.Is(err, source.ErrCorrupt) {
				t.Errorf("%s of %d bytes, %s: %v, want ErrCorrupt", filepath.Base(blob)[:8], len(whole), what, err)
			}
		}
		must(t, os.WriteFile(blob, whole, 0o600))
	}
	_, done, err := readSource(t, &source.OCI{Layout: dir})
	must(t, err)
	must(t, done())
}

func TestOCIRefusesLayersThatAreNoTar(t *testing.T) {
	image, err := mutate.AppendLayers(imageOf(t), static.NewLayer([]byte("chart"), types.MediaType("application/vnd.cncf.helm.chart.content.v1.tar+gzip")))
	must(t, err)
	dir := layoutOf(t, map[string]v1.Image{"it": image})
	if _, err := (&source.OCI{Layout: dir}).Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), "helm.chart") {
		t.Errorf("got %v", err)
	}
}

// hub is a registry on 127.0.0.1 that keeps a record of what it is asked.
type hub struct {
	server *httptest.Server
	mu     sync.Mutex
	asked  []string
	// before may answer a request itself, and says so.
	before func(http.ResponseWriter, *http.Request) bool
}

func newHub(t *testing.T) *hub {
	t.Helper()
	// Else the machine's own configuration would be asked for credentials.
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	h := &hub{}
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.asked = append(h.asked, r.Method+" "+r.URL.Path)
		before := h.before
		h.mu.Unlock()
		if before == nil || !before(w, r) {
			images.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(h.server.Close)
	return h
}

func (h *hub) reference(tag string) string {
	return strings.TrimPrefix(h.server.URL, "http://") + "/os/base:" + tag
}

func (h *hub) push(t *testing.T, tag string, image v1.Image) {
	t.Helper()
	to, err := name.ParseReference(h.reference(tag))
	must(t, err)
	must(t, remote.Write(to, image))
	h.forget()
}

func (h *hub) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = nil
}

func (h *hub) count(part string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, one := range h.asked {
		if strings.Contains(one, part) {
			n++
		}
	}
	return n
}

func TestOCIPinsATagAndFetchesEachBlobOnce(t *testing.T) {
	h, cache := newHub(t), t.TempDir()
	one := imageOf(t, []item{fileItem("a", "1")}, []item{fileItem("b", "1")})
	h.push(t, "13", one)
	digest, err := one.Digest()
	must(t, err)
	first := &source.OCI{Reference: h.reference("13"), CacheDir: cache}
	pinned, err := first.Pin(t.Context())
	must(t, err)
	if pinned != digest.String() || !first.ReadableAtPlan() {
		t.Errorf("pinned %s, want %s; readable at plan %v", pinned, digest, first.ReadableAtPlan())
	}
	fingerprint, err := first.Fingerprint(t.Context())
	must(t, err)
	read := func(image *source.OCI, want ...string) {
		t.Helper()
		tr, done, err := readSource(t, image)
		must(t, err)
		if got := describe(t, tr); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		must(t, done())
	}
	read(first, "./", "a 1", "b 1")

	// The tag moves on, and what is pinned stays, without another word to the registry.
	h.push(t, "13", imageOf(t, []item{fileItem("a", "2")}))
	again := &source.OCI{Reference: h.reference("13"), Digest: pinned, CacheDir: cache}
	if same, err := again.Fingerprint(t.Context()); err != nil || same != fingerprint {
		t.Errorf("got %s, %v, want %s", same, err, fingerprint)
	}
	read(again, "./", "a 1", "b 1")
	if n := h.count(""); n != 0 {
		t.Errorf("the registry was asked %d times: %q", n, h.asked)
	}
	read(&source.OCI{Reference: h.reference("13"), CacheDir: cache}, "./", "a 2")
	if n := h.count("GET /v2/os/base/blobs"); n != 2 {
		t.Errorf("a configuration and a layer were new, and %d blobs were fetched: %q", n, h.asked)
	}
}

func TestOCIGoesOnWhereFetchingWasCutOff(t *testing.T) {
	h, cache := newHub(t), t.TempDir()
	noise := make([]byte, 3<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7 * 31)
	}
	image := imageOf(t, []item{fileItem("a", string(noise))})
	layers, err := image.Layers()
	must(t, err)
	layer, err := layers[0].Digest()
	must(t, err)
	size, err := layers[0].Size()
	must(t, err)
	h.push(t, "13", image)
	packed, err := layers[0].Compressed()
	must(t, err)
	bytes, err := io.ReadAll(packed)
	must(t, err)
	var from []string
	cuts := 0
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, layer.String()) {
			return false
		}
		from = append(from, r.Header.Get("Range"))
		w.Header().Set("Accept-Ranges", "bytes")
		start := int64(0)
		if text := r.Header.Get("Range"); text != "" {
			if _, err := fmt.Sscanf(text, "bytes=%d-", &start); err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, size-1, size))
		}
		w.Header().Set("Content-Length", fmt.Sprint(size-start))
		if start > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		end := size
		if cuts++; cuts <= 2 {
			end = start + (size-start)/2
		}
		_, _ = w.Write(bytes[start:end]) // a connection that is cut off
		return true
	}
	tr, done, err := readSource(t, &source.OCI{Reference: h.reference("13"), CacheDir: cache})
	must(t, err)
	if e, ok := tr.Lookup("a"); !ok || e.Digest != tree.Sum(noise) {
		t.Error("the content is not what was pushed")
	}
	must(t, done())
	if !strings.Contains(strings.Join(from, ","), fmt.Sprintf("bytes=%d-", size/2)) {
		t.Errorf("asked for %q; after the first cut it should go on at %d", from, size/2)
	}
}

func TestOCITakesNothingThatIsNotWhatTheDigestSays(t *testing.T) {
	h := newHub(t)
	image := imageOf(t, []item{fileItem("a", "1")})
	h.push(t, "13", image)
	layers, err := image.Layers()
	must(t, err)
	layer, err := layers[0].Digest()
	must(t, err)
	size, err := layers[0].Size()
	must(t, err)
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, layer.String()) {
			_, _ = w.Write(make([]byte, size))
			return true
		}
		return false
	}
	cache := t.TempDir()
	if _, _, err := readSource(t, &source.OCI{Reference: h.reference("13"), CacheDir: cache}); !errors.Is(err, source.ErrCorrupt) || !strings.Contains(err.Error(), layer.String()) {
		t.Errorf("got %v, want ErrCorrupt that names the layer", err)
	}
	h.before = nil
	_, done, err := readSource(t, &source.OCI{Reference: h.reference("13"), CacheDir: cache})
	must(t, err)
	must(t, done())
}

func TestOCIUsesDockersCredentials(t *testing.T) {
	h := newHub(t)
	h.push(t, "13", imageOf(t, []item{fileItem("a", "1")}))
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		if user, password, ok := r.BasicAuth(); ok && user == "us" && password == "them" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	host := strings.TrimPrefix(h.server.URL, "http://")
	image := func() error {
		_, err := (&source.OCI{Reference: h.reference("13"), CacheDir: t.TempDir()}).Fingerprint(t.Context())
		return err
	}
	if err := image(); err == nil || !strings.Contains(err.Error(), "401") && !strings.Contains(err.Error(), "credential") {
		t.Errorf("without credentials: %v", err)
	}
	configure := func(config map[string]any) {
		text, err := json.Marshal(config)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), text, 0o600))
	}
	configure(map[string]any{"auths": map[string]any{host: map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte("us:them"))}}})
	if err := image(); err != nil {
		t.Errorf("with credentials in the file: %v", err)
	}
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte("#!/bin/sh\n[ \"$1\" = get ] && host=$(cat) && [ \"$host\" = '"+host+
		"' ] && echo '{\"ServerURL\":\"'$host'\",\"Username\":\"us\",\"Secret\":\"them\"}'\n"), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	configure(map[string]any{"credHelpers": map[string]string{host: "test"}})
	if err := image(); err != nil {
		t.Errorf("with a credential helper: %v", err)
	}
	configure(map[string]any{"credsStore": "test"})
	if err := image(); err != nil {
		t.Errorf("with a credential helper for all registries: %v", err)
	}
}

func TestOCIReferencesAreWhole(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	for _, reference := range []string{"debian", "debian:13", "library/debian:13", "a b", ""} {
		_, err := (&source.OCI{Reference: reference, CacheDir: t.TempDir()}).Fingerprint(t.Context())
		if err == nil || !strings.Contains(err.Error(), "docker.io/library/debian:13") {
			t.Errorf("%q: %v", reference, err)
		}
	}
	plain := false
	h := newHub(t)
	if _, err := (&source.OCI{Reference: h.reference("13"), PlainHTTP: &plain, CacheDir: t.TempDir()}).Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("a registry that was to use TLS: %v", err)
	}
}

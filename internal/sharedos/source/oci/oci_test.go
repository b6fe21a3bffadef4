package oci_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestOCILayersAreLaidOverEachOther(t *testing.T) {
	whiteout := func(p string) sourcetest.Item { return sourcetest.File(p, "") }
	for name, c := range map[string]struct {
		layers [][]sourcetest.Item
		want   []string
	}{
		"the later file wins": {
			[][]sourcetest.Item{{sourcetest.File("a", "1"), sourcetest.File("b", "1")}, {sourcetest.File("a", "2")}},
			[]string{"./", "a 2", "b 1"},
		},
		"a whiteout removes a file": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1"), sourcetest.File("d/b", "1")}, {whiteout("d/.wh.a")}},
			[]string{"./", "d/", "d/b 1"},
		},
		"a whiteout removes a directory with all in it": {
			[][]sourcetest.Item{{sourcetest.File("d/e/f", "1"), sourcetest.File("x", "1")}, {whiteout(".wh.d")}},
			[]string{"./", "x 1"},
		},
		"a whiteout spares what its own layer has, before it and after it": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1"), sourcetest.File("d/b", "1")},
				{sourcetest.File("d/a", "2"), whiteout("d/.wh.a"), whiteout("d/.wh.b"), sourcetest.File("d/b", "2")}},
			[]string{"./", "d/", "d/a 2", "d/b 2"},
		},
		"a whiteout of a directory spares what its own layer has in it": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1")}, {sourcetest.File("d/new", "2"), whiteout(".wh.d")}},
			[]string{"./", "d/", "d/new 2"},
		},
		"a whiteout of nothing is nothing": {
			[][]sourcetest.Item{{sourcetest.File("a", "1")},
				{whiteout(".wh.b"), whiteout("none/.wh.b"), whiteout("none/.wh..wh..opq")}},
			[]string{"./", "a 1"},
		},
		"what was removed can come back": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1")}, {whiteout(".wh.d")}, {sourcetest.File("d/b", "3")}},
			[]string{"./", "d/", "d/b 3"},
		},
		"an opaque directory hides what lower layers have": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1"), sourcetest.File("d/e/f", "1")},
				{sourcetest.Dir("d/"), sourcetest.File("d/b", "2"), whiteout("d/.wh..wh..opq"), sourcetest.File("d/c", "2")}},
			[]string{"./", "d/", "d/b 2", "d/c 2"},
		},
		"AUFS's own records are nothing": {
			[][]sourcetest.Item{{sourcetest.File("a", "1"), sourcetest.File(".wh..wh.aufs", ""),
				sourcetest.Dir(".wh..wh.plnk/")}},
			[]string{"./", "a 1"},
		},
		"a file replaces a directory": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1")}, {sourcetest.File("d", "2")}},
			[]string{"./", "d 2"},
		},
		"a directory replaces a file": {
			[][]sourcetest.Item{{sourcetest.File("d", "1")},
				{sourcetest.File("d2", "1"), sourcetest.Dir("d/"), sourcetest.File("d/a", "2")}},
			[]string{"./", "d/", "d/a 2", "d2 1"},
		},
		"a directory replaces a link": {
			[][]sourcetest.Item{{sourcetest.Dir("to/"), sourcetest.Link("l", "to")},
				{sourcetest.Dir("l/"), sourcetest.File("l/a", "2")}},
			[]string{"./", "l/", "l/a 2", "to/"},
		},
		"a link in the path of a file is followed inside of the tree": {
			[][]sourcetest.Item{{sourcetest.Dir("usr/lib/"), sourcetest.Link("lib", "/../usr/lib"),
				sourcetest.Link("usr/lib64", "../lib")},
				{sourcetest.File("lib/a", "2"), sourcetest.File("usr/lib64/b", "2"), whiteout("lib/.wh.c")}},
			[]string{"./", "lib -> /../usr/lib", "usr/", "usr/lib/", "usr/lib/a 2",
				"usr/lib/b 2", "usr/lib64 -> ../lib"},
		},
		"a link leads to a directory that is made": {
			[][]sourcetest.Item{{sourcetest.Link("a", "../../etc")}, {sourcetest.File("a/evil", "2")}},
			[]string{"./", "a -> ../../etc", "etc/", "etc/evil 2"},
		},
		"hard links within and across layers": {
			[][]sourcetest.Item{{sourcetest.File("a", "1"), sourcetest.HardLink("b", "a"), sourcetest.Link("s", "a"),
				sourcetest.HardLink("s2", "s")},
				{sourcetest.HardLink("c", "b"), sourcetest.File("a", "2"), sourcetest.HardLink("d", "a")}},
			[]string{"./", "a 2", "b 1", "c 1", "d 2", "s -> a", "s2 -> a"},
		},
		"a hard link keeps what its target loses": {
			[][]sourcetest.Item{{sourcetest.File("d/a", "1"), sourcetest.HardLink("b", "d/a")}, {whiteout(".wh.d")}},
			[]string{"./", "b 1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := sourcetest.Layout(t, map[string]v1.Image{"it": sourcetest.Image(t, c.layers...)})
			tr, done, err := sourcetest.Read(t, &oci.Source{Layout: dir})
			sourcetest.Must(t, err)
			if got := sourcetest.Describe(t, tr); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			sourcetest.Must(t, done())
		})
	}
}

func TestOCILayersKeepAllOfAnEntry(t *testing.T) {
	ping := sourcetest.File("ping", "ping")
	ping.Mode, ping.Uid, ping.Gid = 0o4755, 4_000_000_000, 5
	ping.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}
	null := sourcetest.Item{Header: tar.Header{Name: "dev/null\xff", Typeflag: tar.TypeChar, Mode: 0o666,
		Devmajor: 1, Devminor: 3}}
	dir := sourcetest.Layout(t,
		map[string]v1.Image{"it": sourcetest.Image(t, []sourcetest.Item{ping, null},
			[]sourcetest.Item{sourcetest.HardLink("ping6", "ping")})})
	tr, done, err := sourcetest.Read(t, &oci.Source{Layout: dir})
	sourcetest.Must(t, err)
	defer func() { sourcetest.Must(t, done()) }()
	want := tree.Entry{
		Path: "ping", Type: tree.Regular, Mode: 0o4755, UID: 4_000_000_000, GID: 5, Size: 4,
		Digest: tree.Sum([]byte("ping")),
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
		layers [][]sourcetest.Item
		err    error
		want   string
	}{
		"dot dot": {[][]sourcetest.Item{{sourcetest.File("../evil", "")}},
			source.ErrRefused, `"../evil"`},
		"dot dot whiteout": {[][]sourcetest.Item{{sourcetest.File("a/.wh...", "")}}, source.ErrRefused,
			"whiteout without a name"},
		"whiteout of nothing": {[][]sourcetest.Item{{sourcetest.File(".wh.", "")}}, source.ErrRefused,
			"whiteout without a name"},
		"below a file": {[][]sourcetest.Item{{sourcetest.File("a", "")}, {sourcetest.File("a/evil", "")}},
			source.ErrRefused, `layer 2`},
		"a circle of links": {[][]sourcetest.Item{{sourcetest.Link("a", "b"), sourcetest.Link("b", "a")},
			{sourcetest.File("a/evil", "")}}, source.ErrRefused, "too many symbolic links"},
		"hard link to nothing": {[][]sourcetest.Item{{sourcetest.HardLink("a", "none")}},
			source.ErrRefused, `"none"`},
		"hard link to directory": {[][]sourcetest.Item{{sourcetest.Dir("d/"), sourcetest.HardLink("a", "d")}}, source.ErrRefused, `directory "d"`},
		"root as a link":         {[][]sourcetest.Item{{sourcetest.Link("./", "etc")}}, source.ErrRefused, "the root"},
		"unpacks to too much": {[][]sourcetest.Item{{sourcetest.File("a", strings.Repeat("\x00", 600_000))},
			{sourcetest.File("b", strings.Repeat("\x00", 600_000))}}, source.ErrLimit, `"b": more than 1000000 bytes`},
		"too many entries": {[][]sourcetest.Item{{sourcetest.File("a/b/c/d/e", ""), sourcetest.File("f", "")},
			{sourcetest.File("g/h", "")}}, source.ErrLimit, `"g/h": more than 7 entries`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := sourcetest.Layout(t, map[string]v1.Image{"it": sourcetest.Image(t, c.layers...)})
			image := &oci.Source{Layout: dir, Limits: source.Limits{Content: 1_000_000, Entries: 7}}
			_, _, err := sourcetest.Read(t, image)
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %v that says %s", err, c.err, c.want)
			}
		})
	}
}

func TestOCILayoutChoosesTheImageThatIsNamed(t *testing.T) {
	one, two := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "1")}),
		sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "2")})
	digest, err := two.Digest()
	sourcetest.Must(t, err)
	dir := sourcetest.Layout(t, map[string]v1.Image{"one": one, "two": two})
	for reference, want := range map[string]string{"one": "a 1", "two": "a 2", digest.String(): "a 2"} {
		tr, done, err := sourcetest.Read(t, &oci.Source{Layout: dir, Reference: reference})
		sourcetest.Must(t, err)
		if got := sourcetest.Describe(t, tr); got[1] != want {
			t.Errorf("%s: got %q, want %q", reference, got, want)
		}
		sourcetest.Must(t, done())
	}
	for reference, want := range map[string]string{"": "it has 2 images", "three": `no image "three"`} {
		if _, err := (&oci.Source{Layout: dir, Reference: reference}).Fingerprint(t.Context()); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that says %s", reference, err, want)
		}
	}
	if _, err := (&oci.Source{Layout: t.TempDir()}).Fingerprint(t.Context()); !errors.Is(err, os.ErrNotExist) ||
		!strings.Contains(err.Error(), "oci-layout") {
		t.Errorf("a directory that is no layout: %v", err)
	}
}

func TestOCITakesTheImageOfThisArchitecture(t *testing.T) {
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "other")}),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}}},
		mutate.IndexAddendum{Add: sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "none")}),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}},
		mutate.IndexAddendum{Add: sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "this")}),
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}},
	)
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	sourcetest.Must(t, err)
	sourcetest.Must(t, at.AppendIndex(index))
	tr, done, err := sourcetest.Read(t, &oci.Source{Layout: dir})
	sourcetest.Must(t, err)
	if got := sourcetest.Describe(t, tr); got[1] != "a this" {
		t.Errorf("got %q", got)
	}
	sourcetest.Must(t, done())

	// A registry's tag is pinned to the index, and that leads to the same image later, without asking again.
	h, cache := newHub(t), t.TempDir()
	to, err := name.ParseReference(h.reference("13"))
	sourcetest.Must(t, err)
	sourcetest.Must(t, remote.WriteIndex(to, index))
	digest, err := index.Digest()
	sourcetest.Must(t, err)
	pinned, err := (&oci.Source{Reference: h.reference("13"), CacheDir: cache}).Pin(t.Context())
	if sourcetest.Must(t, err); pinned != digest.String() {
		t.Errorf("pinned %s, want the index's %s", pinned, digest)
	}
	for range 2 {
		h.forget()
		tr, done, err = sourcetest.Read(t, &oci.Source{Reference: h.reference("13"), Digest: pinned, CacheDir: cache})
		sourcetest.Must(t, err)
		if got := sourcetest.Describe(t, tr); got[1] != "a this" {
			t.Errorf("from a registry: got %q", got)
		}
		sourcetest.Must(t, done())
	}
	if n := h.count(""); n != 0 {
		t.Errorf("the registry was asked again: %q", h.asked)
	}

	sourcetest.Must(t, at.ReplaceIndex(mutate.RemoveManifests(index,
		func(d v1.Descriptor) bool { return d.Platform.Architecture == runtime.GOARCH }),
		func(v1.Descriptor) bool { return true }))
	if _, err := (&oci.Source{Layout: dir}).Fingerprint(t.Context()); err == nil ||
		strings.Contains(err.Error(), strings.Repeat("0", 64)) ||
		!strings.Contains(err.Error(), "no image for linux/"+runtime.GOARCH+", only linux/s390x, unknown/unknown") {
		t.Errorf("got %v, want the index and what it has", err)
	}
}

// archived packs files of a directory into a tar file.
func archived(t *testing.T, dir string, compress bool) string {
	t.Helper()
	var items []sourcetest.Item
	sourcetest.Must(t, fs.WalkDir(os.DirFS(dir), ".", func(p string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := os.ReadFile(filepath.Join(dir, p))
		items = append(items, sourcetest.File("./"+p, string(data)))
		return err
	}))
	data := sourcetest.Tar(t, items...)
	if compress {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, err := w.Write(data)
		sourcetest.Must(t, errors.Join(err, w.Close()))
		data = b.Bytes()
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	sourcetest.WriteOld(t, file, data)
	return file
}

func TestOCIReadsImagesInFiles(t *testing.T) {
	layers := [][]sourcetest.Item{{sourcetest.File("a", "1"), sourcetest.File("b", "1")}, {sourcetest.File("a", "2")},
		{sourcetest.File(".wh.b", "")}}
	image := sourcetest.Image(t, append(layers, layers[1])...) // two layers are equal
	other := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "other")})
	tag, err := name.NewTag("registry.example.com/os:13")
	sourcetest.Must(t, err)
	saved := filepath.Join(t.TempDir(), "saved.tar")
	sourcetest.Must(t, tarball.WriteToFile(saved, tag, image))
	one := sourcetest.Layout(t, map[string]v1.Image{"13": image})
	two := sourcetest.Layout(t, map[string]v1.Image{"13": image, "12": other})
	for what, src := range map[string]*oci.Source{
		"oci-archive":                  {Layout: archived(t, one, false)},
		"oci-archive, compressed":      {Layout: archived(t, one, true)},
		"oci-archive of two images":    {Layout: archived(t, two, false), Reference: "13"},
		"docker save":                  {Layout: saved},
		"docker save, named":           {Layout: saved, Reference: "registry.example.com/os:13"},
		"a directory, as until now":    {Layout: one},
		"a directory, of two images":   {Layout: two, Reference: "13"},
		"oci-archive and its own name": {Layout: archived(t, one, true), Reference: "13"},
	} {
		src.CacheDir = t.TempDir()
		tr, done, err := sourcetest.Read(t, src)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := sourcetest.Describe(t, tr); len(got) != 2 || got[1] != "a 2" {
			t.Errorf("%s: got %q", what, got)
		}
		sourcetest.Must(t, done())
		first, err := src.Fingerprint(t.Context())
		sourcetest.Must(t, err)
		if again, err := (&oci.Source{Layout: src.Layout, Reference: src.Reference,
			CacheDir: src.CacheDir}).Fingerprint(t.Context()); err != nil || again != first {
			t.Errorf("%s: %s, then %s, %v", what, first, again, err)
		}
		if left, err := filepath.Glob(filepath.Join(src.CacheDir, ".layer-*")); err != nil || len(left) > 0 {
			t.Errorf("%s: left in the cache: %q, %v", what, left, err)
		}
	}
	if a, err := (&oci.Source{Layout: saved}).Fingerprint(t.Context()); err != nil ||
		!strings.HasPrefix(a, "oci-file:sha256:") {
		t.Errorf("%s, %v", a, err)
	}
	// One that is taken for the archive of a root file system is recognised.
	for _, file := range []string{saved, archived(t, one, true)} {
		if _, err := sourcetest.ReadSystem(t, archive.Source{Path: file}, nil); err == nil ||
			!strings.Contains(err.Error(), "use oci = { layout = PATH }") {
			t.Errorf("an image as an archive: %v", err)
		}
	}
	// Damage is seen, and what is missing is named.
	data, err := os.ReadFile(saved)
	sourcetest.Must(t, err)
	rootfs := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, rootfs, sourcetest.Tar(t, sourcetest.File("etc/passwd", "")))
	cut := filepath.Join(t.TempDir(), "cut.tar")
	sourcetest.WriteOld(t, cut, data[:len(data)/2])
	for what, c := range map[string]struct{ src, reference, want string }{
		"no image":   {rootfs, "", "oci-layout"},
		"cut off":    {cut, "", "damaged or cut off"},
		"other name": {saved, "other:1", "registry.example.com/os:13"},
		"two images": {archived(t, two, false), "", "it has 2 images"},
	} {
		_, _, err := sourcetest.Read(t, &oci.Source{Layout: c.src, Reference: c.reference, CacheDir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error that says %s", what, err, c.want)
		}
	}
}

func TestOCILeavesOutWhatIsBesideAnImage(t *testing.T) {
	image := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "this")})
	other := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "no image")})
	attestation := mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
		Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"},
	}}
	signature := mutate.IndexAddendum{Add: other,
		Descriptor: v1.Descriptor{ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json"}}
	for what, beside := range map[string]mutate.IndexAddendum{"an attestation": attestation, "a signature": signature} {
		for where, platform := range map[string]*v1.Platform{"with a platform": {OS: "linux",
			Architecture: runtime.GOARCH}, "without a platform": nil} {
			index := mutate.AppendManifests(empty.Index, beside,
				mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: platform}})
			flat, nested := t.TempDir(), t.TempDir()
			_, err := layout.Write(flat, index) // beside each other in the layout itself
			sourcetest.Must(t, err)
			at, err := layout.Write(nested, empty.Index)
			sourcetest.Must(t, err)
			sourcetest.Must(t, at.AppendIndex(index))
			for _, dir := range []string{flat, nested} {
				tr, done, err := sourcetest.Read(t, &oci.Source{Layout: dir})
				if err != nil {
					t.Errorf("%s beside an image %s: %v", what, where, err)
					continue
				}
				if got := sourcetest.Describe(t, tr); got[1] != "a this" {
					t.Errorf("%s beside an image %s: got %q", what, where, got)
				}
				sourcetest.Must(t, done())
			}
		}
	}
}

func TestOCIRefusesAnImageOfAnotherPlatform(t *testing.T) {
	for platform, change := range map[string]func(*v1.ConfigFile){
		"linux/s390x":               func(c *v1.ConfigFile) { c.Architecture = "s390x" },
		"windows/" + runtime.GOARCH: func(c *v1.ConfigFile) { c.OS = "windows" },
	} {
		image := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "1")})
		config, err := image.ConfigFile()
		sourcetest.Must(t, err)
		change(config)
		image, err = mutate.ConfigFile(image, config)
		sourcetest.Must(t, err)
		dir := sourcetest.Layout(t, map[string]v1.Image{"it": image})
		if _, err := (&oci.Source{Layout: dir}).Fingerprint(t.Context()); err == nil ||
			!strings.Contains(err.Error(), "it is for "+platform) {
			t.Errorf("%s: %v", platform, err)
		}
	}
}

func TestOCISeesEveryDamage(t *testing.T) {
	dir := sourcetest.Layout(t,
		map[string]v1.Image{"it": sourcetest.Image(t,
			[]sourcetest.Item{sourcetest.File("a", strings.Repeat("content ", 1000))})})
	blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	sourcetest.Must(t, err)
	for _, blob := range blobs {
		whole, err := os.ReadFile(blob)
		sourcetest.Must(t, err)
		damaged := slices.Clone(whole)
		damaged[len(damaged)/2] ^= 1
		for what, bytes := range map[string][]byte{
			"a flipped bit": damaged, "cut off": whole[:len(whole)-1],
			"a byte more": append(slices.Clone(whole), 0), "empty": nil,
		} {
			sourcetest.Must(t, os.WriteFile(blob, bytes, 0o600))
			if _, _, err := sourcetest.Read(t, &oci.Source{Layout: dir}); !errors.Is(err, source.ErrCorrupt) {
				t.Errorf("%s of %d bytes, %s: %v, want ErrCorrupt", filepath.Base(blob)[:8], len(whole), what, err)
			}
		}
		sourcetest.Must(t, os.WriteFile(blob, whole, 0o600))
	}
	_, done, err := sourcetest.Read(t, &oci.Source{Layout: dir})
	sourcetest.Must(t, err)
	sourcetest.Must(t, done())
}

func TestOCIRefusesLayersThatAreNoTar(t *testing.T) {
	image, err := mutate.AppendLayers(sourcetest.Image(t),
		static.NewLayer([]byte("chart"), types.MediaType("application/vnd.cncf.helm.chart.content.v1.tar+gzip")))
	sourcetest.Must(t, err)
	dir := sourcetest.Layout(t, map[string]v1.Image{"it": image})
	if _, err := (&oci.Source{Layout: dir}).Fingerprint(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "helm.chart") {
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
	sourcetest.Must(t, err)
	sourcetest.Must(t, remote.Write(to, image))
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
	one := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "1")},
		[]sourcetest.Item{sourcetest.File("b", "1")})
	h.push(t, "13", one)
	digest, err := one.Digest()
	sourcetest.Must(t, err)
	first := &oci.Source{Reference: h.reference("13"), CacheDir: cache}
	pinned, err := first.Pin(t.Context())
	sourcetest.Must(t, err)
	if pinned != digest.String() {
		t.Errorf("pinned %s, want %s", pinned, digest)
	}
	fingerprint, err := first.Fingerprint(t.Context())
	sourcetest.Must(t, err)
	read := func(image *oci.Source, want ...string) {
		t.Helper()
		tr, done, err := sourcetest.Read(t, image)
		sourcetest.Must(t, err)
		if got := sourcetest.Describe(t, tr); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		sourcetest.Must(t, done())
	}
	read(first, "./", "a 1", "b 1")

	// The tag moves on, and what is pinned stays, without another word to the registry.
	h.push(t, "13", sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "2")}))
	again := &oci.Source{Reference: h.reference("13"), Digest: pinned, CacheDir: cache}
	if same, err := again.Fingerprint(t.Context()); err != nil || same != fingerprint {
		t.Errorf("got %s, %v, want %s", same, err, fingerprint)
	}
	read(again, "./", "a 1", "b 1")
	if n := h.count(""); n != 0 {
		t.Errorf("the registry was asked %d times: %q", n, h.asked)
	}
	read(&oci.Source{Reference: h.reference("13"), CacheDir: cache}, "./", "a 2")
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
	image := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", string(noise))})
	layers, err := image.Layers()
	sourcetest.Must(t, err)
	layer, err := layers[0].Digest()
	sourcetest.Must(t, err)
	size, err := layers[0].Size()
	sourcetest.Must(t, err)
	h.push(t, "13", image)
	packed, err := layers[0].Compressed()
	sourcetest.Must(t, err)
	bytes, err := io.ReadAll(packed)
	sourcetest.Must(t, err)
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
	tr, done, err := sourcetest.Read(t, &oci.Source{Reference: h.reference("13"), CacheDir: cache})
	sourcetest.Must(t, err)
	if e, ok := tr.Lookup("a"); !ok || e.Digest != tree.Sum(noise) {
		t.Error("the content is not what was pushed")
	}
	sourcetest.Must(t, done())
	if !strings.Contains(strings.Join(from, ","), fmt.Sprintf("bytes=%d-", size/2)) {
		t.Errorf("asked for %q; after the first cut it should go on at %d", from, size/2)
	}
}

func TestOCITakesNothingThatIsNotWhatTheDigestSays(t *testing.T) {
	h := newHub(t)
	image := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "1")})
	h.push(t, "13", image)
	layers, err := image.Layers()
	sourcetest.Must(t, err)
	layer, err := layers[0].Digest()
	sourcetest.Must(t, err)
	size, err := layers[0].Size()
	sourcetest.Must(t, err)
	h.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, layer.String()) {
			_, _ = w.Write(make([]byte, size))
			return true
		}
		return false
	}
	cache := t.TempDir()
	if _, _, err := sourcetest.Read(t, &oci.Source{Reference: h.reference("13"), CacheDir: cache}); !errors.Is(err,
		source.ErrCorrupt) || !strings.Contains(err.Error(), layer.String()) {
		t.Errorf("got %v, want ErrCorrupt that names the layer", err)
	}
	h.before = nil
	_, done, err := sourcetest.Read(t, &oci.Source{Reference: h.reference("13"), CacheDir: cache})
	sourcetest.Must(t, err)
	sourcetest.Must(t, done())
}

func TestOCIUsesDockersCredentials(t *testing.T) {
	h := newHub(t)
	h.push(t, "13", sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", "1")}))
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
		_, err := (&oci.Source{Reference: h.reference("13"), CacheDir: t.TempDir()}).Fingerprint(t.Context())
		return err
	}
	if err := image(); err == nil ||
		!strings.Contains(err.Error(), "401") && !strings.Contains(err.Error(), "credential") {
		t.Errorf("without credentials: %v", err)
	}
	configure := func(config map[string]any) {
		text, err := json.Marshal(config)
		sourcetest.Must(t, err)
		sourcetest.Must(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), text, 0o600))
	}
	configure(
		map[string]any{"auths": map[string]any{host: map[string]string{"auth": base64.StdEncoding.EncodeToString(
			[]byte("us:them"))}}})
	if err := image(); err != nil {
		t.Errorf("with credentials in the file: %v", err)
	}
	bin := t.TempDir()
	sourcetest.Must(t, os.WriteFile(filepath.Join(bin, "docker-credential-test"),
		[]byte("#!/bin/sh\n[ \"$1\" = get ] && host=$(cat) && [ \"$host\" = '"+host+
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
		_, err := (&oci.Source{Reference: reference, CacheDir: t.TempDir()}).Fingerprint(t.Context())
		if err == nil || !strings.Contains(err.Error(), "docker.io/library/debian:13") {
			t.Errorf("%q: %v", reference, err)
		}
	}
	plain := false
	h := newHub(t)
	if _, err := (&oci.Source{Reference: h.reference("13"), PlainHTTP: &plain,
		CacheDir: t.TempDir()}).Fingerprint(t.Context()); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("a registry that was to use TLS: %v", err)
	}
}

func TestOCIStreamCanBeClosedEarly(t *testing.T) {
	image := sourcetest.Image(t, []sourcetest.Item{sourcetest.File("a", sourcetest.Noise(4<<20))})
	sourcetest.CloseEarly(t, &oci.Source{Layout: sourcetest.Layout(t, map[string]v1.Image{"it": image})})
}

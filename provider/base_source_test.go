package provider_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/hashicorp/terraform-plugin-testing/compare"
	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func version(v string) sourcetest.System {
	return sourcetest.NewSystem("6.12."+v).With("usr/bin/server", "version "+v,
		"usr/lib/systemd/systemd-networkd", "networkd")
}

func sourced(attribute string) string {
	return fmt.Sprintf(`
resource "sharedos_base" "debian" {
  name = "own"
  %s
}
`, attribute)
}

// extract lays out a system in a directory.
func extract(t *testing.T, dir string, system sourcetest.System) {
	t.Helper()
	stream, err := system.Tar()
	must(t, err)
	for in := tar.NewReader(bytes.NewReader(stream)); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		must(t, err)
		at := filepath.Join(dir, header.Name)
		must(t, os.MkdirAll(filepath.Dir(at), 0o755))
		if header.Typeflag == tar.TypeSymlink {
			must(t, os.Symlink(header.Linkname, at))
			continue
		}
		content, err := io.ReadAll(in)
		must(t, err)
		must(t, os.WriteFile(at, content, fs.FileMode(header.Mode)))
		must(t, os.Chtimes(at, header.ModTime, header.ModTime))
	}
}

func TestADirectoryIsReadWhilePlanning(t *testing.T) {
	world := newWorld(t)
	dir := t.TempDir()
	extract(t, dir, version("1"))
	own := sourced(fmt.Sprintf(`directory = { path = %q, owner = "root" }`, dir))
	check(t, world,
		resource.TestStep{
			Config: own,
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
				plancheck.ExpectKnownValue(debianAddress, attribute("source_digest"), knownvalue.Null()),
			),
		},
		// Without a cache, as on another machine, an unchanged directory is still recognised.
		resource.TestStep{
			PreConfig: func() { must(t, world.ForgetCache()) }, Config: own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
		},
		resource.TestStep{
			PreConfig: func() {
				must(t, os.WriteFile(filepath.Join(dir, "usr/bin/server"), []byte("version 2"), 0o755))
			},
			Config: own,
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
				plancheck.ExpectKnownValue(debianAddress, attribute("change").AtMapKey("changed"),
					knownvalue.Int64Exact(1)),
			),
		},
		// A file with a new modification time is a new input, but it results in the same system.
		resource.TestStep{
			PreConfig: func() {
				must(t, os.WriteFile(filepath.Join(dir, "usr/bin/server"), []byte("version 2"), 0o755))
			},
			Config:           own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
		},
	)
}

// packImage makes an image of a system in one layer.
func packImage(t *testing.T, system sourcetest.System) v1.Image {
	t.Helper()
	stream, err := system.Tar()
	must(t, err)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser,
		error) {
		return io.NopCloser(bytes.NewReader(stream)), nil
	})
	must(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	must(t, err)
	config, err := image.ConfigFile()
	must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	return image
}

func digestOf(t *testing.T, image v1.Image) string {
	t.Helper()
	digest, err := image.Digest()
	must(t, err)
	return digest.String()
}

func TestATagIsPinnedUntilATriggerChanges(t *testing.T) {
	world := newWorld(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	reference := strings.TrimPrefix(server.URL, "http://") + "/os/base:13"
	one, two := packImage(t, version("1")), packImage(t, version("2"))
	push := func(image v1.Image) func() {
		return func() {
			to, err := name.ParseReference(reference)
			must(t, err)
			must(t, remote.Write(to, image))
		}
	}
	own := sourced(fmt.Sprintf(`oci = { reference = %q }`, reference))
	triggered := sourced(fmt.Sprintf(`oci = { reference = %q, triggers = { month = "2" } }`, reference))
	check(t, world,
		resource.TestStep{
			PreConfig: push(one), Config: own,
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionCreate),
				plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID),
				plancheck.ExpectKnownValue(debianAddress, attribute("source_digest"),
					knownvalue.StringExact(digestOf(t, one))),
			),
		},
		// When the tag moves, nothing changes, even without a cache.
		resource.TestStep{
			PreConfig: func() { push(two)(); must(t, world.ForgetCache()) }, Config: own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
			ConfigStateChecks: []statecheck.StateCheck{value(debianAddress, attribute("source_digest"),
				knownvalue.StringExact(digestOf(t, one)))},
		},
		resource.TestStep{
			Config: triggered,
			ConfigPlanChecks: plans(
				action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2)),
				plancheck.ExpectKnownValue(debianAddress, attribute("source_digest"),
					knownvalue.StringExact(digestOf(t, two))),
			),
		},
		resource.TestStep{
			Config:      sourced(fmt.Sprintf(`oci = { reference = %q }`, strings.Replace(reference, ":13", ":14", 1))),
			ExpectError: says(`Unable to plan base "own"`, "os/base:14", "reading its source"),
		},
	)
}

func TestALayoutIsReadWhilePlanning(t *testing.T) {
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	must(t, err)
	put := func(image v1.Image) {
		must(t, at.ReplaceImage(image, func(v1.Descriptor) bool { return true }))
	}
	put(packImage(t, version("1")))
	own := sourced(fmt.Sprintf(`oci = { layout = %q }`, dir))
	release := statecheck.CompareValue(compare.ValuesDiffer())
	known := plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID)
	check(t, newWorld(t),
		resource.TestStep{
			Config: own, ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionCreate), known),
			ConfigStateChecks: []statecheck.StateCheck{release.AddStateValue(debianAddress, attribute("release"))},
		},
		resource.TestStep{
			PreConfig: func() { put(packImage(t, version("2"))) },
			Config:    own, ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate), known),
			ConfigStateChecks: []statecheck.StateCheck{release.AddStateValue(debianAddress, attribute("release"))},
		},
	)
}

func TestALimitFailsThePlanAndCanBeRaised(t *testing.T) {
	own := newImage(t)
	limited := func(limits string) string {
		return sourced(fmt.Sprintf("archive = { path = %q }\n  limits = %s", own.path, limits))
	}
	check(t, newWorld(t),
		resource.TestStep{
			Config:      limited(`{ content = "100KiB" }`),
			ExpectError: says(`Unable to plan base "own"`, "more than 102400 bytes of content", "raise limits.content"),
		},
		resource.TestStep{
			Config:      limited(`{ entries = 3 }`),
			ExpectError: says(`Unable to plan base "own"`, "more than 3 entries", "limits.entries"),
		},
		resource.TestStep{Config: limited(`{ content = "1GiB" }`)},
		// Limits do not change the base itself.
		resource.TestStep{
			Config: limited(`{ content = "2GiB", entries = 1000 }`),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(1))),
		},
	)
}

func TestAURLIsFetchedWhilePlanning(t *testing.T) {
	stream, err := version("1").Tar()
	must(t, err)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			asked++
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(stream))
	}))
	defer server.Close()
	of := func(digest string) string {
		return sourced(fmt.Sprintf("archive = { url = %q, sha256 = %q }", server.URL+"/rootfs.tar", digest))
	}
	world := newWorld(t)
	check(t, world,
		resource.TestStep{Config: of(strings.Repeat("0", 64)),
			ExpectError: says(`Unable to plan base "own"`,
				"the received file has the digest "+tree.Sum(stream).String())},
		resource.TestStep{
			PreConfig: func() { asked = 0 }, Config: of(tree.Sum(stream).Hex()),
			ConfigPlanChecks: plans(plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID)),
		},
		// A plan does not download a file to find out that it has not changed: its digest says so.
		resource.TestStep{
			PreConfig: func() { must(t, world.ForgetCache()) }, Config: of(tree.Sum(stream).Hex()),
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop)),
		},
	)
	if asked != 1 {
		t.Errorf("the archive was fetched %d times", asked)
	}
}

func TestLocalFilesOfADebianSourceAreReadWhilePlanning(t *testing.T) {
	dir := t.TempDir()
	deb, motd := filepath.Join(dir, "own.deb"), filepath.Join(dir, "motd")
	put := func(path, text string) func() {
		return func() { must(t, os.WriteFile(path, []byte(text), 0o600)) }
	}
	put(deb, "1")()
	put(motd, "1")()
	own := debian(patched + fmt.Sprintf(`, package_files = [%q], files = {
    "/etc/motd"  = { from = %q, mode = "0600" }
    "/etc/issue" = { content = "hello" }
  }`, deb, motd))
	check(t, newWorld(t),
		resource.TestStep{Config: own},
		resource.TestStep{Config: own, ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop))},
		resource.TestStep{PreConfig: put(deb, "2"), Config: own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate))},
		resource.TestStep{PreConfig: put(motd, "2"), Config: own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate))},
		resource.TestStep{
			PreConfig: func() { must(t, os.Remove(deb)) }, Config: own,
			ExpectError: says(`Unable to plan base "debian-13"`, "own.deb", "no such file"),
		},
		resource.TestStep{PreConfig: put(deb, "2"), Config: own},
	)
}

func TestADiskImageIsReadWhilePlanning(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	put := func(system sourcetest.System) func() {
		return func() {
			dir := t.TempDir()
			extract(t, dir, system)
			must(t, os.WriteFile(path, nil, 0o600))
			must(t, os.Truncate(path, 16<<20))
			said, err := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", "-d", dir, path).CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, said)
			}
		}
	}
	put(version("1"))()
	own := sourced(fmt.Sprintf(`disk_image = { path = %q }`, path))
	known := plancheck.ExpectKnownValue(debianAddress, attribute("release"), anID)
	check(t, newWorld(t),
		resource.TestStep{Config: own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionCreate), known)},
		resource.TestStep{Config: own, ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionNoop))},
		resource.TestStep{
			PreConfig: put(version("2")), Config: own,
			ConfigPlanChecks: plans(action(debianAddress, plancheck.ResourceActionUpdate), known,
				plancheck.ExpectKnownValue(debianAddress, attribute("sequence"), knownvalue.Int64Exact(2))),
		},
		resource.TestStep{
			Config:      sourced(fmt.Sprintf(`disk_image = { path = %q, partition = 2 }`, path)),
			ExpectError: says(`Unable to plan base "own"`, "no partition 2"),
		},
	)
}

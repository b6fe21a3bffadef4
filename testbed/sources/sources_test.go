// Package sources tests every kind of source that a base can have. It applies each example in examples/bases,
// unchanged, with the real Terraform on a real libvirt, and boots VMs.
package sources

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// limit bounds one command. An emulated guest boots in half a minute, and in several minutes on a busy machine.
const limit = 20 * time.Minute

// expected is how long a test is expected to hold a guest slot, with what follows in the same test.
const expected = 3 * time.Minute

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, stdin, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, said)
	}
}

// inputs are the same Debian 13 in every form that a source can have.
type inputs struct {
	archive, directory, image, layout string
	reference, url, sha256            string
}

// prepare makes all forms of the archive.
func prepare(t *testing.T) inputs {
	t.Helper()
	archive, err := guest.DebianTar(t.Context(), guest.Updated)
	must(t, err)
	in := inputs{archive: archive, directory: filepath.Join(t.TempDir(), "rootfs"), layout: t.TempDir()}

	must(t, os.Mkdir(in.directory, 0o755))
	run(t, "", "tar", "-C", in.directory, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", archive)

	// The disk has a GPT like images for clouds: a partition for a boot loader, and behind it the root file system.
	root, disk := filepath.Join(t.TempDir(), "root.ext4"), filepath.Join(t.TempDir(), "disk.raw")
	const rootMiB = 1024
	for path, mib := range map[string]int64{root: rootMiB, disk: rootMiB + 4} {
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Truncate(path, mib<<20))
	}
	run(t, "", "mkfs.ext4", "-q", "-d", in.directory, root)
	run(t, fmt.Sprintf("label: gpt\nfirst-lba: 34\nstart=34, size=2000, type=21686148-6449-6E6F-744E-656564454649\n"+
		"start=2048, size=%d, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709\n", rootMiB*2048), "sfdisk", "-q", disk)
	run(t, "", "dd", "if="+root, "of="+disk, "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
	in.image = filepath.Join(t.TempDir(), "disk.qcow2")
	run(t, "", "qemu-img", "convert", "-O", "qcow2", disk, in.image)
	must(t, errors.Join(os.Remove(root), os.Remove(disk)))

	image := imageOf(t, archive)
	at, err := layout.Write(in.layout, empty.Index)
	must(t, err)
	must(t, at.AppendImage(image))
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(hub.Close)
	in.reference = strings.TrimPrefix(hub.URL, "http://") + "/os/debian:13"
	to, err := name.ParseReference(in.reference)
	must(t, err)
	must(t, remote.Write(to, image))

	files := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(archive))))
	t.Cleanup(files.Close)
	in.url = files.URL + "/" + filepath.Base(archive)
	file, err := os.Open(archive)
	must(t, err)
	_, in.sha256, err = sum(file)
	must(t, err)
	return in
}

// imageOf packs the archive into an image of three layers: files that do not belong there, the archive, and
// whiteouts of those files.
func imageOf(t *testing.T, archive string) v1.Image {
	t.Helper()
	var below, above bytes.Buffer
	must(t, writeTar(&below, "opt/stray/file", "etc/stray"))
	must(t, writeTar(&above, "opt/.wh.stray", "etc/.wh.stray"))
	image := empty.Image
	for _, open := range []tarball.Opener{
		opener(below.Bytes()),
		func() (io.ReadCloser, error) { return os.Open(archive) },
		opener(above.Bytes()),
	} {
		layer, err := tarball.LayerFromOpener(open, tarball.WithCompressionLevel(1))
		must(t, err)
		image, err = mutate.AppendLayers(image, layer)
		must(t, err)
	}
	config, err := image.ConfigFile()
	must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	return image
}

// world is a libvirt on which one Terraform configuration after the other is applied.
type world struct {
	bed  *testbed.Testbed
	host *host.Host
	env  []string
	key  *guest.Key
}

func newWorld(t *testing.T) *world {
	t.Helper()
	cache, err := testbed.CacheDir()
	must(t, err)
	w := &world{bed: testbed.New(t)}
	w.key, err = guest.NewKey()
	must(t, err)
	pool, operator := filepath.Join(w.bed.Dir(), "pool"), filepath.Join(w.bed.Dir(), "operator.key")
	w.env = []string{
		"SHAREDOS_URI=" + w.bed.URI(), "SHAREDOS_POOL_PATH=" + pool, "SHAREDOS_OPERATOR_KEY=" + operator,
		"SHAREDOS_CACHE=" + cache, "SHAREDOS_STATE_DIR=" + w.bed.StateDir(),
	}
	w.host, err = host.Open(t.Context(), host.Config{
		URI: w.bed.URI(), PoolPath: pool, OperatorKey: operator, Cache: cache, StateDir: w.bed.StateDir(),
		Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	t.Cleanup(func() {
		if err := w.host.Close(); err != nil {
			t.Errorf("close the host: %v", err)
		}
	})
	return w
}

// example opens an example of examples/bases.
func (w *world) example(t *testing.T, kind string, variables map[string]any) *workspace.Workspace {
	t.Helper()
	terraform, err := workspace.Terraform()
	must(t, err)
	work, err := workspace.New(workspace.Config{
		Terraform: terraform, Provider: filepath.Join("..", "..", "bin", "terraform-provider-sharedos"),
		Configuration: os.DirFS(filepath.Join("..", "..", "examples", "bases", kind)),
		Dir:           filepath.Join(t.TempDir(), "tf"),
		Env:           w.env, Tell: func(line string) { t.Log(line) },
	})
	must(t, err)
	for name, value := range variables {
		work.Variables[name] = value
	}
	return work
}

// made is everything of a release that a VM can show.
type made struct {
	// Entries are those of the tree by path, without times.
	Entries  map[string]tree.Entry
	Kernel   *release.Kernel
	Packages []release.Package
	Users    map[string]uint32
	Groups   map[string]uint32
}

// made reads a release that was published.
func (w *world) made(t *testing.T, id tree.Digest) *made {
	t.Helper()
	manifest, err := w.host.Publisher.Get(t.Context(), id)
	must(t, err)
	list, err := w.host.Store.GetBlob(t.Context(), manifest.Contents)
	must(t, err)
	m := &made{Entries: map[string]tree.Entry{}, Kernel: manifest.Kernel, Packages: manifest.Packages,
		Users: manifest.Users, Groups: manifest.Groups}
	for reader := release.NewContentsReader(bytes.NewReader(list)); ; {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return m
		}
		must(t, err)
		e.ModTime = time.Time{}
		m.Entries[e.Path] = e
	}
}

// planned are the attributes of the base that a plan knows.
type planned struct {
	Release *tree.Digest `json:"release"`
	Layers  []struct {
		ID tree.Digest `json:"id"`
	} `json:"layers"`
}

func plannedBase(t *testing.T, plan *workspace.Plan) (p planned) {
	t.Helper()
	for _, change := range plan.Changes {
		if strings.HasPrefix(change.Address, "sharedos_base.") {
			must(t, json.Unmarshal(change.Change.After, &p))
		}
	}
	return p
}

// A VM cannot show more than the tree from which it runs. So the trees of all sources except Debian's archive are
// compared, and a VM boots one of them. Another VM boots Debian's archive, since two runs of mmdebstrap differ in
// files that maintainer scripts write.
func TestAVMBootsFromEverySource(t *testing.T) {
	in := prepare(t)
	w := newWorld(t)
	var first *made
	for _, c := range []struct {
		kind      string
		variables map[string]any
		boots     bool
	}{
		{"url", map[string]any{"url": in.url, "sha256": in.sha256}, false},
		{"directory", map[string]any{"directory": in.directory}, false},
		{"oci", map[string]any{"reference": in.reference}, false},
		{"oci-layout", map[string]any{"layout": in.layout}, false},
		{"disk-image", map[string]any{"image": in.image}, false},
		{"archive", map[string]any{"archive": in.archive}, true},
		{"debian", nil, true},
	} {
		t.Run(c.kind, func(t *testing.T) {
			port, err := testbed.FreePort()
			must(t, err)
			work := w.example(t, c.kind, c.variables)
			work.Variables["ssh_port"], work.Variables["ssh_authorized_keys"] = port, []string{w.key.Authorized}
			plan := w.plan(t, work)
			base := plannedBase(t, plan)
			if base.Release == nil {
				t.Fatal("the release is not known in the plan")
			}
			var only []string
			if c.boots {
				slots, err := w.bed.TakeSlots(t.Context(), 1, expected)
				must(t, err)
				defer func() { must(t, slots.Release()) }()
			} else {
				only = []string{"-target=sharedos_base.os"}
				plan = w.plan(t, work, only...)
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			must(t, work.Apply(ctx, plan))
			defer func() {
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				must(t, work.Destroy(ctx))
			}()
			if c.boots {
				w.mustRun(t, "from-"+c.kind, *base.Release, port)
			}

			release := w.made(t, *base.Release)
			if first == nil {
				first = release
			}
			if motd := tree.Sum([]byte("A VM on a shared OS.\n")); c.kind == "debian" &&
				release.Entries["etc/motd"].Digest != motd {
				t.Errorf("the file that is laid over the packages is %+v", release.Entries["etc/motd"])
			}
			if diff := cmp.Diff(first, release); diff != "" && c.kind != "debian" {
				t.Errorf("the release is not that of the first source: -first +%s\n%s", c.kind, diff)
			}
			for _, change := range w.plan(t, work, only...).Changes {
				if !change.Is("no-op") {
					t.Errorf("a second plan wants to %v %s", change.Change.Actions, change.Address)
				}
			}
		})
	}
}

// plan makes a plan.
func (w *world) plan(t *testing.T, work *workspace.Workspace, extra ...string) *workspace.Plan {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	plan, err := work.Plan(ctx, extra...)
	must(t, err)
	return plan
}

// mustRun fails unless a VM runs a release, its services run, and its set-user-ID files have their mode.
func (w *world) mustRun(t *testing.T, name string, id tree.Digest, port uint16) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	vm, err := w.host.Fleet.Read(ctx, name)
	must(t, err)
	if !vm.Answered || vm.Agent.GetStack().GetBase() != id.String() {
		t.Fatalf("the agent answers %v, with the stack %v, want %s", vm.Answered, vm.Agent.GetStack(), id)
	}
	const command = `stat -c '%a %u' /usr/bin/su && systemctl is-active nginx && systemctl show --property=NFailedUnits --value`
	const want = "4755 0\nactive\n0\n"
	for {
		said, err := w.key.Run(ctx, fmt.Sprintf("127.0.0.1:%d", port), command, nil)
		if err == nil && said == want {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the VM says %q, %v, want %q", said, err, want)
		case <-time.After(time.Second):
		}
	}
}

package crashtest

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// made is a release, with the signed manifest of the stack of just that release.
type made struct {
	signed   []byte
	manifest *release.StackManifest
	stack    release.Stack
	contents []byte
}

// files are the regular files of a release, and the targets of its symbolic links, by path.
type files struct {
	content map[string][]byte
	links   map[string]string
	// modes are those of the files that do not have the mode of their kind, owners those that are not root's.
	modes, owners map[string]uint32
}

// copied returns a copy that can be changed.
func (f files) copied() files {
	return files{maps.Clone(f.content), maps.Clone(f.links), maps.Clone(f.modes), maps.Clone(f.owners)}
}

// put adds a file.
func (f files) put(name, content string) { f.content[name] = []byte(content) }

const (
	// loader is the dynamic loader that a release has.
	loader = "usr/lib64/ld-linux-x86-64.so.2"
	// service is the program of the service that is the same in all releases. It sleeps for ever.
	service = "usr/bin/idle"
)

// system is what all releases have: the program of a machine, mkfs.ext4 to make the private disk
// with, a service, and the list of the running kernel's modules.
func system(t *testing.T, program string) files {
	t.Helper()
	f := files{content: map[string][]byte{}, modes: map[string]uint32{}, owners: map[string]uint32{},
		links: map[string]string{
			"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "opt": "var/opt",
		}}
	copyFile := func(name, from string) {
		data, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		f.content[name] = data
	}
	copyFile("usr/sbin/init", program)
	for name, as := range map[string]string{"mkfs.ext4": "usr/sbin/mkfs.ext4", "sleep": service} {
		program, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		copyFile(as, program)
		listed, err := exec.Command("ldd", program).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range strings.Fields(string(listed)) {
			if strings.HasPrefix(word, "/") {
				copyFile(strings.TrimPrefix(path.Join("/usr", strings.TrimPrefix(word, "/usr")), "/"), word)
			}
		}
		if f.content[loader] == nil {
			t.Fatalf("%s is loaded by another program than %s: %s", program, loader, listed)
		}
	}
	kernel, err := mounts.KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	f.put("usr/lib/modules/"+kernel+"/modules.dep", "")
	f.put("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	f.put("etc/kept.conf", "the same in all")
	return f
}

// named returns the system with the files of the release of this name. Between two releases files
// are added, removed and changed in /usr, /etc and /opt, and added in /var.
func (f files) named(name string) files {
	f = f.copied()
	f.put("usr/share/mark", name)
	f.put("usr/share/"+name+"-only", name)
	for _, program := range []string{"usr/bin/db", "usr/bin/web"} {
		f.content[program] = append(bytes.Clone(f.content[service]),
			name...) // ignored behind the last section of a program
	}
	f.put("etc/mark/changes.conf", name)
	f.put("etc/mark/mode.conf", name)
	f.put("etc/mark/changed-here.conf", name)
	f.put("etc/mark/"+name+"-only/file.conf", name)
	f.put("etc/systemd/system/web.service", "[Unit]\nDescription=web of "+name+"\n")
	f.put("var/lib/"+name+"/data", name)
	f.put("var/opt/acme/bin/acmed", name)
	f.put("var/opt/acme/changed-here.conf", name)
	f.put("var/opt/acme/"+name+"-only/data", name)
	f.content["etc/passwd"] = append(bytes.Clone(f.content["etc/passwd"]), name+":x:999:999::/:/bin/sh\n"...)
	f.links["etc/mark/link"] = name
	return f
}

// tree returns the files as a tree, with their directories.
func (f files) tree() (*tree.Tree, error) {
	entries := map[string]tree.Entry{}
	directory := func(name string) {
		for ; ; name = path.Dir(name) {
			entries[name] = tree.Entry{Path: name, Type: tree.Directory, Mode: 0o755}
			if name == tree.Root {
				return
			}
		}
	}
	for _, name := range []string{"dev", "etc", "home", "proc", "root", "run", "srv", "sys", "usr/bin", "var"} {
		directory(name)
	}
	contents := memory{}
	for name, data := range f.content {
		directory(path.Dir(name))
		mode := uint32(0o644)
		switch {
		case strings.Contains(name, "bin/") || strings.Contains(name, ".so"):
			mode = 0o755
		case strings.HasSuffix(name, "mode.conf"):
			mode = 0o600
		}
		if other, set := f.modes[name]; set {
			mode = other
		}
		contents[tree.Sum(data)] = data
		entries[name] = tree.Entry{Path: name, Type: tree.Regular, Mode: mode,
			UID: f.owners[name], Size: int64(len(data)),
			Digest: tree.Sum(data)}
	}
	for name, target := range f.links {
		directory(path.Dir(name))
		entries[name] = tree.Entry{Path: name, Type: tree.Symlink, Mode: 0o777, Link: target}
	}
	sorted := make([]tree.Entry, 0, len(entries))
	for _, entry := range entries {
		sorted = append(sorted, entry)
	}
	return tree.New(sorted, contents)
}

// memory is the content of a tree in memory.
type memory map[tree.Digest][]byte

// Open implements tree.Content.
func (m memory) Open(digest tree.Digest) (io.ReadCloser, error) {
	content, has := m[digest]
	if !has {
		return nil, fmt.Errorf("no content %s", digest)
	}
	return io.NopCloser(bytes.NewReader(content)), nil
}

// release makes the next release. The first one is a full layer, each further one a delta.
func (w *world) release(t *testing.T, name string, f files) {
	t.Helper()
	whole, err := f.tree()
	if err != nil {
		t.Fatal(err)
	}
	written := whole
	if w.last != nil {
		delta, err := tree.New(layer.Delta(w.lastTree.Entries, whole.Entries), whole.Content)
		if err != nil {
			t.Fatal(err)
		}
		written = delta
	}
	image := filepath.Join(w.dir, name+".erofs")
	made := &made{}
	wrote, err := writeLayer(t, written, image)
	if err != nil {
		t.Fatal(err)
	}
	wrote.Delta = w.last != nil
	w.images = append(w.images, Image{Layer: wrote, Path: image})
	w.chain = append(w.chain, w.images[len(w.images)-1])
	var contents bytes.Buffer
	blob, err := release.WriteContents(&contents, whole.Entries)
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := mounts.KernelRelease()
	if err != nil {
		t.Fatal(err)
	}
	if w.kernel != "" {
		kernel = w.kernel
	}
	file := release.Blob{Digest: tree.Sum([]byte("kernel")), Size: 6}
	made.contents = contents.Bytes()
	made.manifest = &release.StackManifest{
		Schema:       release.StackSchema,
		Base:         release.Member{ID: tree.Sum([]byte(name)), Name: "debian", Sequence: uint64(len(w.releases) + 1)},
		Architecture: "amd64", OS: "a machine", Contents: blob,
		Kernel: release.Kernel{Release: kernel, Image: file, Modules: file},
	}
	for _, image := range w.chain {
		made.manifest.Layers = append(made.manifest.Layers, image.Layer)
	}
	var id tree.Digest
	if made.signed, id, err = release.SignStack(made.manifest, w.key); err != nil {
		t.Fatal(err)
	}
	made.stack = made.manifest.Record(id)
	w.releases[name], w.last, w.lastTree = made, made, whole
}

// component makes the stack of the last release and of a release of a component on it. The files are those of both. It
// returns the component's layer: two releases can have the same one.
func (w *world) component(t *testing.T, name, component string, f files) Image {
	t.Helper()
	whole, err := f.tree()
	if err != nil {
		t.Fatal(err)
	}
	delta, err := tree.New(layer.Delta(w.lastTree.Entries, whole.Entries), whole.Content)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(w.dir, name+".erofs")
	wrote, err := writeLayer(t, delta, image)
	if err != nil {
		t.Fatal(err)
	}
	wrote.Delta = true
	own := Image{Layer: wrote, Path: image}
	if at := slices.IndexFunc(w.images, func(i Image) bool { return i.Layer.ID == wrote.ID }); at >= 0 {
		own = w.images[at]
	} else {
		w.images = append(w.images, own)
	}
	var contents bytes.Buffer
	blob, err := release.WriteContents(&contents, whole.Entries)
	if err != nil {
		t.Fatal(err)
	}
	stack := *w.last.manifest
	stack.Contents, stack.BaseLayers = blob, len(stack.Layers)
	stack.Layers = append(slices.Clone(stack.Layers), wrote)
	stack.Components = []release.Member{{ID: tree.Sum([]byte(name)), Name: component,
		Sequence: uint64(len(w.releases) + 1)}}
	made := &made{contents: contents.Bytes(), manifest: &stack}
	var id tree.Digest
	if made.signed, id, err = release.SignStack(made.manifest, w.key); err != nil {
		t.Fatal(err)
	}
	made.stack = made.manifest.Record(id)
	w.releases[name] = made
	return own
}

// with returns the files of a release together with those of a component: one with a unit, an account, configuration
// and data. Two of its files take the place of others of the release.
func (f files) with(component string) files {
	f = f.copied()
	f.put("usr/share/mark", component)
	f.put("usr/share/"+component+"/data", component)
	f.content["usr/bin/"+component] = append(bytes.Clone(f.content[service]), component...)
	f.put("usr/lib/systemd/system/"+component+".service", "[Service]\nExecStart=/usr/bin/"+component+"\n")
	f.links[enabledLinks+component+".service"] = "../" + component + ".service"
	f.put("etc/"+component+"/mode.conf", component)
	f.put("etc/"+component+"/changed-here.conf", component)
	f.put("var/lib/"+component+"/data", component)
	f.put("var/opt/"+component+"/data", component)
	f.put("var/opt/acme/changed-here.conf", component)
	f.content["etc/passwd"] = append(bytes.Clone(f.content["etc/passwd"]), component+":x:998:998::/:/bin/sh\n"...)
	return f
}

func writeLayer(t *testing.T, of *tree.Tree, path string) (written release.Layer, err error) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return written, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return layer.Write(t.Context(), of, file)
}

// move returns the order for a refresh from one release to another. shape changes the request; it may be nil.
func (w *world) move(t *testing.T, from, to string, shape func(*agentapi.RefreshRequest)) Order {
	t.Helper()
	request := &agentapi.RefreshRequest{
		Target:         &agentapi.Target{From: w.releases[from].signed, To: w.releases[to].signed},
		AllowDowngrade: true, Strategy: "live", MaxImpact: agentapi.Level_RESTART,
	}
	if shape != nil {
		shape(request)
	}
	order := Order{Blobs: map[string][]byte{}}
	for _, name := range []string{from, to} {
		made := w.releases[name]
		order.Blobs[made.manifest.Contents.Digest.Hex()] = made.contents
	}
	var err error
	if order.Request, err = proto.Marshal(request); err != nil {
		t.Fatal(err)
	}
	return order
}

// name returns the name of the release of a stack.
func (w *world) name(stack release.Stack) string {
	for name, made := range w.releases {
		if made.stack.Same(stack) {
			return name
		}
	}
	return stack.ID.String()
}

// public is the operator key that machines trust.
func (w *world) public() ed25519.PublicKey {
	public, _ := w.key.Public().(ed25519.PublicKey)
	return public
}

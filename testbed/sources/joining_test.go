package sources

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// unequal are paths that may differ between a stack and what apt makes of all packages at once, as the guide
// "Components" says: /etc/shadow has the day on which each account was made.
var unequal = []string{"etc/shadow"}

// A stack of components shows the tree that apt makes when it installs base and all components at once, path by path.
func TestAStackOfComponentsIsWhatAptMakes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	from, err := guest.DebianTar(ctx, guest.Updated)
	must(t, err)
	cacheDir := t.TempDir()
	s := storetest.New(t)
	p := &publish.Publisher{Store: s, Cache: t.TempDir(), Key: ed25519.NewKeyFromSeed(make([]byte, 32)), Modules: bootimage.Modules}
	base, err := p.Prepare(ctx, publish.Spec{Name: "debian", Source: archive.Source{Path: from}}, nil)
	must(t, err)
	must(t, p.Publish(ctx, base, nil))
	of := func(names ...string) *publish.Prepared {
		t.Helper()
		name := strings.Join(names, "-")
		made, err := p.Components().Prepare(ctx, publish.Spec{
			Name: name, BuiltOn: base.ID, Addition: debian.Addition{Source: &debian.Source{Packages: names, CacheDir: cacheDir}},
		}, nil)
		must(t, err)
		must(t, p.Components().Publish(ctx, made, nil))
		return made
	}
	first, second := of("redis-server"), of("gsettings-desktop-schemas", "libglib2.0-bin", "ssl-cert")
	id, err := p.Join(ctx, base.ID, []tree.Digest{first.ID, second.ID}, nil)
	must(t, err)
	must(t, p.PublishDerived(ctx, id))
	joining, err := p.Get(ctx, id)
	must(t, err)
	// Another machine makes the same one, and mends what the pool lacks of it.
	must(t, os.Remove(s.Path(store.LayerName(joining.Layers[0].ID))))
	elsewhere := &publish.Publisher{Store: s, Cache: t.TempDir(), Key: p.Key, Modules: bootimage.Modules}
	if again, err := elsewhere.Join(ctx, base.ID, []tree.Digest{first.ID, second.ID}, nil); err != nil || again != id {
		t.Errorf("another machine made %s, %v, and not %s", again, err, id)
	}
	must(t, elsewhere.PublishDerived(ctx, id))
	if _, err := s.LayerPath(ctx, joining.Layers[0].ID); err != nil {
		t.Error(err)
	}
	t.Logf("the joining layer has %d bytes", joining.Layers[0].Size)
	stack, _, err := compose.Compose(compose.Parts{
		Base:       release.Identified{ID: base.ID, Manifest: base.Manifest},
		Components: []release.Identified{{ID: first.ID, Manifest: first.Manifest}, {ID: second.ID, Manifest: second.Manifest}},
		Joining: &compose.Joining{
			Layer: joining.Layers[0], Contents: joining.Contents, Packages: joining.Packages, Users: joining.Users, Groups: joining.Groups,
		},
	}, nil)
	must(t, err)
	both := of("gsettings-desktop-schemas", "libglib2.0-bin", "redis-server", "ssl-cert")
	if got, want := stack.Packages, both.Manifest.Packages; len(got) != len(want) {
		t.Errorf("%d packages, and apt has %d", len(got), len(want))
	}
	shown, wanted := contentsOf(ctx, t, s, stack.Contents), contentsOf(ctx, t, s, both.Manifest.Contents)
	skip := func(path string) bool { return slices.Contains(unequal, path) }
	for path, want := range wanted {
		if got, has := shown[path]; !skip(path) && (!has || !tree.Equal(got, want)) {
			t.Errorf("%s: apt makes %+v, and the stack has %+v", path, want, got)
		}
	}
	for path := range shown {
		if _, has := wanted[path]; !has && !skip(path) {
			t.Errorf("%s: apt does not make it", path)
		}
	}
}

func contentsOf(ctx context.Context, t *testing.T, s *storetest.Store, list release.Blob) map[string]tree.Entry {
	t.Helper()
	data, err := s.GetBlob(ctx, list)
	must(t, err)
	reader, entries := release.NewContentsReader(bytes.NewReader(data)), map[string]tree.Entry{}
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		must(t, err)
		entries[e.Path] = e
	}
}

// A component that needs a newer package than its base has is refused, with the package and both versions.
func TestAComponentThatNeedsANewerBase(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	from, err := guest.DebianTar(ctx, guest.Updated)
	must(t, err)
	system, err := rootfs.Read(ctx, archive.Source{Path: from}, t.TempDir(), nil)
	must(t, err)
	defer func() { must(t, system.Close()) }()
	// libzstd-dev is for exactly one version of libzstd1, and this base has an old one, wherever the archive stands.
	const old = "1.5.6+dfsg-1"
	added := debian.Addition{Source: &debian.Source{Packages: []string{"libzstd-dev"}, CacheDir: t.TempDir()}}
	on, err := added.On(ctx, source.Base{Name: "debian", Tree: withVersion(t, system.Tree, "libzstd1", old)})
	must(t, err)
	_, err = rootfs.ReadAddition(ctx, on, system.Tree, t.TempDir(), nil)
	var blocked *debian.BlockedError
	if !errors.As(err, &blocked) || !errors.Is(err, source.ErrRefused) {
		t.Fatalf("got %v, want a BlockedError", err)
	}
	if len(blocked.Packages) != 1 || blocked.Packages[0].Name != "libzstd1" || blocked.Packages[0].Has != old || blocked.Packages[0].Needs <= old {
		t.Errorf("blocked by %+v", blocked.Packages)
	}
}

// withVersion returns a tree whose package database has another version of a package.
func withVersion(t *testing.T, of *tree.Tree, name, version string) *tree.Tree {
	t.Helper()
	const path = "usr/lib/sysimage/dpkg/status"
	data, err := of.ReadFile(path, 1<<26)
	must(t, err)
	stanzas := strings.Split(string(data), "\n\n")
	for i, stanza := range stanzas {
		if lines := strings.Split(stanza, "\n"); strings.TrimSpace(lines[0]) == "Package: "+name {
			for j := range lines {
				if strings.HasPrefix(lines[j], "Version: ") {
					lines[j] = "Version: " + version
				}
			}
			stanzas[i] = strings.Join(lines, "\n")
		}
	}
	changed := []byte(strings.Join(stanzas, "\n\n"))
	entries := slices.Clone(of.Entries)
	i, ok := of.Index(path)
	if !ok {
		t.Fatal("there is no package database")
	}
	entries[i].Size, entries[i].Digest = int64(len(changed)), tree.Sum(changed)
	return &tree.Tree{Entries: entries, Content: also{of.Content, entries[i].Digest, changed}}
}

// also has one more content than others.
type also struct {
	tree.Content
	digest tree.Digest
	data   []byte
}

func (a also) Open(digest tree.Digest) (io.ReadCloser, error) {
	if digest == a.digest {
		return io.NopCloser(bytes.NewReader(a.data)), nil
	}
	return a.Content.Open(digest)
}

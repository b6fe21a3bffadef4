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

// unequal are paths that may differ between a stack and what apt makes of all packages at once, as
// the guide "Components" says: /etc/shadow has the day on which each account was made, and the
// database that PostgreSQL's package makes has a number and times of its own each time.
var unequal = []string{
	"etc/shadow",
	"var/lib/postgresql/17/main/global/pg_control", "var/lib/postgresql/17/main/pg_wal/000000010000000000000001",
	"var/lib/postgresql/17/main/pg_stat/pgstat.stat",
}

// A stack of components shows the tree that apt makes when it installs base and all components at once,
// path by path: two components, and more that all have accounts, caches, alternatives or byte code to join.
func TestAStackOfComponentsIsWhatAptMakes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
	defer cancel()
	from, err := guest.DebianTar(ctx, guest.Updated)
	must(t, err)
	s := storetest.New(t)
	j := joins{s, &publish.Publisher{Store: s, Cache: t.TempDir(), Key: ed25519.NewKeyFromSeed(make([]byte, 32)),
		Modules: bootimage.Modules}, nil, t.TempDir()}
	j.base, err = j.p.Prepare(ctx, publish.Spec{Name: "debian", Source: archive.Source{Path: from}}, nil)
	must(t, err)
	must(t, j.p.Publish(ctx, j.base, nil))
	keys, settings := []string{"redis-server"}, []string{"gsettings-desktop-schemas", "libglib2.0-bin", "ssl-cert"}
	first, second := j.of(ctx, t, keys...), j.of(ctx, t, settings...)
	joining := j.isWhatAptMakes(ctx, t, []*publish.Prepared{first, second}, slices.Concat(keys, settings))
	// Another machine makes the same one, and mends what the pool lacks of it.
	must(t, os.Remove(s.Path(store.LayerName(joining.Layers[0].ID))))
	elsewhere := &publish.Publisher{Store: s, Cache: t.TempDir(), Key: j.p.Key, Modules: bootimage.Modules}
	again, err := elsewhere.Join(ctx, j.base.ID, []tree.Digest{first.ID, second.ID}, nil)
	must(t, err)
	if m, err := j.p.Get(ctx, again); err != nil || m.Layers[0].ID != joining.Layers[0].ID {
		t.Errorf("another machine made %s, %v", again, err)
	}
	must(t, elsewhere.PublishDerived(ctx, again))
	if _, err := s.LayerPath(ctx, joining.Layers[0].ID); err != nil {
		t.Error(err)
	}
	database, interpreter := []string{"postgresql"}, []string{"python3"}
	third, fourth := j.of(ctx, t, database...), j.of(ctx, t, interpreter...)
	j.isWhatAptMakes(ctx, t, []*publish.Prepared{third, second, fourth, first},
		slices.Concat(database, settings, interpreter, keys))
}

// joins publishes components on a base, and joins them.
type joins struct {
	store *storetest.Store
	p     *publish.Publisher
	base  *publish.Prepared
	cache string
}

// of publishes a component of packages.
func (j joins) of(ctx context.Context, t *testing.T, packages ...string) *publish.Prepared {
	t.Helper()
	slices.Sort(packages)
	name := strings.Join(packages, "-")
	made, err := j.p.Components().Prepare(ctx, publish.Spec{
		Name: name[:min(len(name), 63)], BuiltOn: j.base.ID,
		Addition: debian.Addition{Source: &debian.Source{Packages: packages, CacheDir: j.cache}},
	}, nil)
	must(t, err)
	must(t, j.p.Components().Publish(ctx, made, nil))
	return made
}

// isWhatAptMakes joins components, and compares their stack with a component of all of their
// packages. It returns the joining layer's release.
func (j joins) isWhatAptMakes(ctx context.Context, t *testing.T, components []*publish.Prepared,
	packages []string) *release.Manifest {
	t.Helper()
	parts := compose.Parts{Base: release.Identified{ID: j.base.ID, Manifest: j.base.Manifest}}
	var ids []tree.Digest
	for _, one := range components {
		ids = append(ids, one.ID)
		parts.Components = append(parts.Components, release.Identified{ID: one.ID, Manifest: one.Manifest})
	}
	id, err := j.p.Join(ctx, j.base.ID, ids, nil)
	must(t, err)
	must(t, j.p.PublishDerived(ctx, id))
	joining, err := j.p.Get(ctx, id)
	must(t, err)
	t.Logf("the joining layer of %q has %d bytes", packages, joining.Layers[0].Size)
	parts.Joining = &compose.Joining{
		Layer: joining.Layers[0], Contents: joining.Contents, Packages: joining.Packages,
		Users: joining.Users, Groups: joining.Groups,
	}
	stack, _, err := compose.Compose(parts, nil)
	must(t, err)
	all := j.of(ctx, t, packages...)
	if got, want := stack.Packages, all.Manifest.Packages; len(got) != len(want) {
		t.Errorf("of %q there are %d packages, and apt has %d", packages, len(got), len(want))
	}
	shown, wanted := contentsOf(ctx, t, j.store, stack.Contents), contentsOf(ctx, t, j.store, all.Manifest.Contents)
	skip := func(path string) bool { return slices.Contains(unequal, path) }
	for path, want := range wanted {
		if got, has := shown[path]; !skip(path) && (!has || !tree.Equal(got, want)) {
			t.Errorf("of %q, %s: apt makes %+v, and the stack has %+v", packages, path, want, got)
		}
	}
	for path := range shown {
		if _, has := wanted[path]; !has && !skip(path) {
			t.Errorf("of %q, %s: apt does not make it", packages, path)
		}
	}
	return joining
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
	if len(blocked.Packages) != 1 || blocked.Packages[0].Name != "libzstd1" || blocked.Packages[0].Has != old ||
		blocked.Packages[0].Needs <= old {
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

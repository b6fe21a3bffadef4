package sources

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// unequal are paths that may differ between a stack and what apt makes of all packages at once. docs/guides/components.md
// lists them.
var unequal = []string{
	"usr/lib/sysimage/dpkg/", // the order of packages in it; what it says is compared by itself
	"var/log/", "var/cache/", "var/lib/apt/",
	"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", // the order of lines
}

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
	must(t, p.PublishJoining(ctx, id))
	joining, err := p.Get(ctx, id)
	must(t, err)
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
	skip := func(path string) bool {
		for _, one := range unequal {
			if path == one || strings.HasSuffix(one, "/") && strings.HasPrefix(path, one) {
				return true
			}
		}
		return false
	}
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

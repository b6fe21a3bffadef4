package publish

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// apt is an addition of files that counts as one of packages.
type apt struct{ addition.Files }

func (a apt) On(ctx context.Context, base source.Base) (source.Source, error) {
	from, err := a.Files.On(ctx, base)
	return aptOn{from}, err
}

type aptOn struct{ source.Source }

func (a aptOn) Fingerprint(ctx context.Context) (string, error) {
	fingerprint, err := a.Source.Fingerprint(ctx)
	return "debian:" + fingerprint, err
}

func filesOf(t *testing.T, files sourcetest.System) addition.Files {
	t.Helper()
	stream, err := files.Tar()
	must(t, err)
	return addition.Files{Source: sourcetest.Bytes(stream)}
}

// A preference decides what a VM sees at a path that several components have, wherever the preferred
// component stands in the order. What is laid over each other is what overlayfs shows of the layers.
func TestAPreferenceDecidesWhatTheStackShows(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem().With("usr/share/old", "of the base"))
	of := func(name string, what source.Addition) release.Identified {
		t.Helper()
		made, err := p.Components().Prepare(t.Context(), Spec{Name: name, BuiltOn: base.ID, Addition: what}, nil)
		must(t, err)
		must(t, p.Components().Publish(t.Context(), made, nil))
		return release.Identified{ID: made.ID, Manifest: made.Manifest}
	}
	nginx := of("nginx", apt{filesOf(t, sourcetest.System{
		"etc/nginx/nginx.conf": "of the package", "etc/nginx/mime.types": "types", "usr/sbin/nginx": "server",
		"usr/share/app": "a file",
	})})
	site := of("site", filesOf(t, sourcetest.System{
		"etc/nginx/nginx.conf": "of the site", "etc/nginx/site.conf": "more", "usr/share/app/index": "page",
		"usr/share/old": "of the site",
	}))
	conflict := func(err error, what string) {
		t.Helper()
		var found *compose.Conflict
		if !errors.As(err, &found) || found.What != what || found.First != "nginx" && found.Second != "nginx" {
			t.Errorf("got %v, and not a conflict about %s", err, what)
		}
	}
	prefer := func(pairs ...string) (all []release.Preference) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, release.Preference{Path: pairs[i], Component: pairs[i+1]})
		}
		return all
	}
	for name, test := range map[string]struct {
		prefer   []release.Preference
		conflict string
		want     map[string]string // "" for a path that is not there
	}{
		"the site": {prefer("/etc/nginx", "site", "/usr/share/app", "site"), "", map[string]string{
			"etc/nginx/nginx.conf": "of the site", "etc/nginx/mime.types": "types", "etc/nginx/site.conf": "more",
			"usr/share/app/index": "page",
			"usr/share/old":       "of the site",
		}},
		"the package": {prefer("/etc/nginx/nginx.conf", "nginx", "/usr/share/app", "nginx"), "", map[string]string{
			"etc/nginx/nginx.conf": "of the package", "etc/nginx/mime.types": "types", "etc/nginx/site.conf": "more",
			"usr/share/app":       "a file",
			"usr/share/app/index": "", "usr/share/old": "of the site",
		}},
		"the longer path before the shorter one": {prefer("/etc", "site", "/etc/nginx/nginx.conf", "nginx", "/usr",
			"site"), "", map[string]string{
			"etc/nginx/nginx.conf": "of the package", "usr/share/app/index": "page",
		}},
		"one of the two conflicts is left":      {prefer("/etc/nginx", "site"), "/usr/share/app", nil},
		"a path whose name only begins like it": {prefer("/etc/ngin", "site", "/usr/share/app", "site"), "/etc/nginx/nginx.conf", nil},
	} {
		for _, components := range [][]release.Identified{{nginx, site}, {site, nginx}} {
			t.Run(name+" above "+components[0].Manifest.Name, func(t *testing.T) {
				ids := []tree.Digest{components[0].ID, components[1].ID}
				if _, err := p.JoinCached(t.Context(), base.ID, ids, test.prefer); !errors.Is(err, ErrNotCached) {
					t.Errorf("before it is built: %v", err)
				}
				id, err := p.Join(t.Context(), base.ID, ids, test.prefer)
				if test.conflict != "" {
					conflict(err, test.conflict)
					return
				}
				must(t, err)
				if cached, err := p.JoinCached(t.Context(), base.ID, ids, test.prefer); err != nil || cached != id {
					t.Errorf("once it is built: %s, %v", cached, err)
				}
				must(t, p.PublishDerived(t.Context(), id))
				joining, err := p.Get(t.Context(), id)
				must(t, err)
				stack, _, err := compose.Compose(compose.Parts{
					Base:       release.Identified{ID: base.ID, Manifest: base.Manifest},
					Components: components, Prefer: test.prefer,
					Joining: &compose.Joining{Layer: joining.Layers[0], Contents: joining.Contents,
						Packages: joining.Packages, Users: joining.Users, Groups: joining.Groups},
				}, nil)
				must(t, err)
				if diff := cmp.Diff(test.prefer, stack.Record(id).Prefer); diff != "" {
					t.Errorf("the record has preferences (-want +got):\n%s", diff)
				}
				list, err := s.GetBlob(t.Context(), stack.Contents)
				must(t, err)
				listed, err := readContents(list)
				must(t, err)
				at := map[string]tree.Entry{}
				for _, e := range listed {
					at[e.Path] = e
				}
				shown := mountStack(t, s, stack.Layers)
				for path, want := range test.want {
					e, has := at[path]
					if has != (want != "") || has && e.Digest != tree.Sum([]byte(want)) {
						t.Errorf("the contents list has %+v at %s, want %q", e, path, want)
					}
					got, err := os.ReadFile(filepath.Join(shown, path))
					if missing := errors.Is(err, fs.ErrNotExist) ||
						errors.Is(err, unix.ENOTDIR); shown != "" && (string(got) != want || missing != (want == "")) {
						t.Errorf("%s has %q, %v, want %q", path, got, err, want)
					}
				}
			})
		}
	}
	ids := []tree.Digest{nginx.ID, site.ID}
	if id, err := p.Join(t.Context(), base.ID, ids, nil); err != nil || !id.IsZero() {
		t.Errorf("without preferences, and packages in one component alone: %s, %v", id, err)
	}
}

// mountStack mounts the layers of a stack over each other; "" if this process may not mount.
func mountStack(t *testing.T, s *storetest.Store, layers []release.Layer) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return ""
	}
	dir := t.TempDir()
	mount := func(from, to, kind, options string) error {
		must(t, os.MkdirAll(to, 0o755))
		err := unix.Mount(from, to, kind, unix.MS_RDONLY, options)
		if err == nil {
			t.Cleanup(func() { must(t, unix.Unmount(to, 0)) })
		}
		return err
	}
	var lower []string
	for i, one := range layers {
		at := filepath.Join(dir, string(rune('a'+i)))
		if err := mount(s.Path(store.LayerName(one.ID)), at, "erofs", ""); err != nil {
			t.Logf("layers cannot be mounted here: %v", err)
			return ""
		}
		lower = append([]string{at}, lower...)
	}
	shown := filepath.Join(dir, "shown")
	must(t, mount("overlay", shown, "overlay", "lowerdir="+strings.Join(lower, ":")))
	return shown
}

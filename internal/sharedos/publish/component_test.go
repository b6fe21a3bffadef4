package publish

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/addition"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// installed is an addition that installs a package as dpkg would: it adds to the package database and the accounts that
// it finds in the base.
type installed struct {
	t             *testing.T
	name, version string
	// user is a new account, which gets the first free number from 100.
	user string
}

func pack(t *testing.T, name, version, user string) installed {
	return installed{t, name, version, user}
}

func (i installed) On(_ context.Context, base source.Base) (source.Source, error) {
	return installedOn{i, base}, nil
}

type installedOn struct {
	installed
	base source.Base
}

func (i installedOn) Fingerprint(context.Context) (string, error) {
	return fmt.Sprintf("installed:%s:%s:%s", i.name, i.version, i.user), nil
}

func (i installedOn) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	read := func(path string) string {
		data, err := i.base.Tree.ReadFile(path, 1<<20)
		must(i.t, err)
		return string(data)
	}
	files := []sourcetest.Item{
		sourcetest.Program("usr/bin/"+i.name, i.version),
		sourcetest.File("var/lib/dpkg/status", read("var/lib/dpkg/status")+
			fmt.Sprintf("\nPackage: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n", i.name,
				i.version)),
	}
	if i.user != "" {
		passwd, group, number := read("etc/passwd"), read("etc/group"), 100
		for strings.Contains(passwd, fmt.Sprintf(":%d:", number)) {
			number++
		}
		own := sourcetest.File("var/lib/"+i.name+"/own", "data of "+i.name)
		own.Uid, own.Gid = number, number
		files = append(files, own,
			sourcetest.File("etc/passwd",
				passwd+fmt.Sprintf("%s:x:%d:%d::/var/lib/%s:/usr/sbin/nologin\n", i.user, number, number, i.name)),
			sourcetest.File("etc/group", group+fmt.Sprintf("%s:x:%d:\n", i.user, number)))
	}
	over, err := addition.Files{Source: sourcetest.Bytes(sourcetest.Tar(i.t, files...))}.On(ctx, i.base)
	if err != nil {
		return nil, err
	}
	return over.Open(ctx, progress)
}

func component(t *testing.T, p *Publisher, on *Prepared, what installed) *Prepared {
	t.Helper()
	c := p.Components()
	prepared, err := c.Prepare(t.Context(), Spec{Name: what.name, BuiltOn: on.ID, Addition: what}, nil)
	must(t, err)
	must(t, c.Publish(t.Context(), prepared, nil))
	return prepared
}

func TestAComponentIsOneDeltaOverItsBase(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	made := component(t, p, base, pack(t, "redis", "7", "redis"))
	m := made.Manifest
	if m.Kind != release.Component || m.BuiltOn != base.ID || m.Sequence != 1 || len(m.Layers) != 1 ||
		!m.Layers[0].Delta || m.Kernel != nil {
		t.Errorf("%+v", m)
	}
	if want := []PackageChange{{Name: "redis", To: "7"}}; !cmp.Equal(made.Change.Packages, want) {
		t.Errorf("it adds packages %v", made.Change.Packages)
	}
	err := p.withTree(t.Context(), m.BuiltOn, func(_ *release.Manifest, below *tree.Tree) error {
		list, err := s.GetBlob(t.Context(), m.Contents)
		must(t, err)
		whole, err := readContents(list)
		must(t, err)
		var added []string
		for _, e := range whole {
			if was, there := below.Lookup(e.Path); !there || !tree.Equal(*was, e) {
				added = append(added, e.Path)
			}
		}
		want := []string{"etc/group", "etc/passwd", "usr/bin/redis", "usr/lib/sysimage/dpkg/status",
			"var/lib/redis", "var/lib/redis/own"}
		slices.Sort(added)
		if diff := cmp.Diff(want, added); diff != "" {
			t.Errorf("added (-want +got):\n%s", diff)
		}
		return nil
	})
	must(t, err)
	again, err := p.Components().Prepare(t.Context(),
		Spec{Name: "redis", BuiltOn: base.ID, Addition: pack(t, "redis", "7", "redis")}, nil)
	if err != nil || !again.Unchanged || again.ID != made.ID {
		t.Errorf("prepared again: %+v, %v", again, err)
	}
}

func TestAComponentFollowsItsBaseInOnePlan(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	redis := pack(t, "redis", "7", "redis")
	old := component(t, p, first, redis)
	patched := prepare(t, p, sourceOf(t, newSystem().With("usr/bin/server", "version 2")))
	moved, err := p.Components().Prepare(t.Context(), Spec{Name: "redis", BuiltOn: patched.ID, Addition: redis}, nil)
	must(t, err)
	if moved.Unchanged || moved.Manifest.BuiltOn != patched.ID || moved.Manifest.Sequence != 2 ||
		moved.Manifest.Previous != old.ID {
		t.Fatalf("on a base that is only prepared: %+v", moved.Manifest)
	}
	must(t, p.Publish(t.Context(), patched, nil))
	must(t, p.Components().Publish(t.Context(), moved, nil))
	if id, _, err := p.Components().Newest(t.Context(), "redis"); err != nil || id != moved.ID {
		t.Errorf("newest %s, %v", id, err)
	}
	if moved.Manifest.Users["redis"] != old.Manifest.Users["redis"] {
		t.Error("its account has another number on the new release")
	}
}

// A base that is published is read from the store: others that use the cache may have removed it there.
func TestAComponentOfAPublishedBaseNeedsNoCache(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	base := publish(t, p, newSystem())
	must(t, os.RemoveAll(p.baseDir("os")))
	component(t, p, base, pack(t, "redis", "7", ""))
}

// Two components that give the same number to different accounts when they are built alone have different numbers in
// the end: in one plan, over plans, and for a new account of the base.
func TestAccountsHaveOneNumberInAllStacksOnABase(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	prepareOn := func(on *Prepared, what installed) *Prepared {
		t.Helper()
		made, err := p.Components().Prepare(t.Context(), Spec{Name: what.name, BuiltOn: on.ID, Addition: what}, nil)
		must(t, err)
		return made
	}
	redis := prepareOn(base, pack(t, "redis", "7", "redis"))
	postgres := prepareOn(base, pack(t, "postgres", "17", "postgres"))
	a, b := redis.Manifest.Users["redis"], postgres.Manifest.Users["postgres"]
	if a == b || redis.Manifest.Groups["redis"] == postgres.Manifest.Groups["postgres"] {
		t.Fatalf("both have number %d", a)
	}
	must(t, p.Components().Publish(t.Context(), redis, nil))
	must(t, p.Components().Publish(t.Context(), postgres, nil))
	history, err := s.History(t.Context(), release.Base, "os")
	must(t, err)
	if want := map[string]uint32{"redis": a, "postgres": b}; !maps.Equal(history.Users, want) {
		t.Errorf("the ledger has %v, want %v", history.Users, want)
	}
	// Files of the account have its number, too.
	list, err := s.GetBlob(t.Context(), postgres.Manifest.Contents)
	must(t, err)
	entries, err := readContents(list)
	must(t, err)
	i := slices.IndexFunc(entries, func(e tree.Entry) bool { return e.Path == "var/lib/postgres/own" })
	if i < 0 || entries[i].UID != b {
		t.Errorf("its files belong to another number than %d", b)
	}
	// Another machine, without what this one's plans noted.
	elsewhere := newPublisher(t, s)
	third, err := elsewhere.Components().Prepare(t.Context(),
		Spec{Name: "etcd", BuiltOn: base.ID, Addition: pack(t, "etcd", "3", "etcd")}, nil)
	must(t, err)
	if n := third.Manifest.Users["etcd"]; n == a || n == b {
		t.Errorf("etcd got number %d, which another account has", n)
	}
	system := newSystem()
	passwd := system["etc/passwd"]
	next := prepare(t, p,
		sourceOf(t, newSystem().With("etc/passwd", passwd+fmt.Sprintf("ntp:x:%d:0::/:/bin/false\n", a))))
	if n := next.Manifest.Users["ntp"]; n == a || n == b {
		t.Errorf("a new account of the base got number %d, which a component's has", n)
	}
}

func TestTwoMachinesThatPlannedTheSameNumber(t *testing.T) {
	s := storetest.New(t)
	here, there := newPublisher(t, s), newPublisher(t, s)
	base := publish(t, here, newSystem())
	mine, err := here.Components().Prepare(t.Context(),
		Spec{Name: "redis", BuiltOn: base.ID, Addition: pack(t, "redis", "7", "redis")}, nil)
	must(t, err)
	component(t, there, base, pack(t, "postgres", "17", "postgres"))
	if err := here.Components().Publish(t.Context(), mine, nil); !errors.Is(err, ErrMoved) {
		t.Errorf("got %v, want ErrMoved", err)
	}
	if _, _, err := here.Components().Newest(t.Context(), "redis"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("it is published: %v", err)
	}
}

func TestWhatNoComponentCanBeBuiltOn(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	base := publish(t, p, newSystem())
	redis := component(t, p, base, pack(t, "redis", "7", ""))
	for what, spec := range map[string]Spec{
		"a component":           {Name: "x", BuiltOn: redis.ID, Addition: pack(t, "x", "1", "")},
		"an id of nothing":      {Name: "x", BuiltOn: tree.Sum([]byte("x")), Addition: pack(t, "x", "1", "")},
		"no addition":           {Name: "x", BuiltOn: base.ID},
		"a name that is no one": {Name: "X Y", BuiltOn: base.ID, Addition: pack(t, "x", "1", "")},
	} {
		if _, err := p.Components().Prepare(t.Context(), spec, nil); err == nil {
			t.Errorf("%s: no error", what)
		} else if !strings.Contains(what, "no") && !errors.Is(err, ErrBase) {
			t.Errorf("%s: %v", what, err)
		}
	}
	nothing := addition.Files{Source: sourcetest.Bytes(sourcetest.Tar(t, sourcetest.Dir("usr")))}
	if _, err := p.Components().Prepare(t.Context(), Spec{Name: "x", BuiltOn: base.ID, Addition: nothing},
		nil); !errors.Is(err, ErrNothing) {
		t.Errorf("nothing added: %v", err)
	}
	for what, item := range map[string]sourcetest.Item{
		"a directory over a link at the top": sourcetest.File("bin/x", "x"),
		"a file over a directory":            sourcetest.File("usr/bin", "x"),
		"a kernel":                           sourcetest.File("usr/lib/modules/9.9.9/modules.dep", ""),
	} {
		items := []sourcetest.Item{item}
		if strings.HasPrefix(what, "a directory") {
			items = []sourcetest.Item{sourcetest.Dir("bin"), item}
		}
		files := addition.Files{Source: sourcetest.Bytes(sourcetest.Tar(t, items...))}
		if _, err := p.Components().Prepare(t.Context(), Spec{Name: "x", BuiltOn: base.ID, Addition: files},
			nil); !errors.Is(err, source.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", what, err)
		}
	}
}

func TestABaseIsKeptForItsComponents(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	made := component(t, p, first, pack(t, "redis", "7", ""))
	if err := p.Delete(t.Context(), "os", used(nil)); !errors.Is(err, store.ErrInUse) ||
		!strings.Contains(err.Error(), `"redis"`) {
		t.Errorf("deleting the base: got %v, want ErrInUse with the component", err)
	}
	publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	_, err := p.Retain(t.Context(), "os", 1, used(nil))
	must(t, err)
	// The component stands on the release that the base no longer lists.
	if _, err := p.Get(t.Context(), first.ID); err != nil {
		t.Error(err)
	}
	must(t, p.Components().Delete(t.Context(), "redis", used(nil)))
	if _, err := p.Get(t.Context(), made.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the component's release: %v", err)
	}
	if _, err := p.Get(t.Context(), first.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the base release that nothing needs: %v", err)
	}
	must(t, p.Delete(t.Context(), "os", used(nil)))
}

// A package of a component makes its data anew at each build. What else the component has decides whether it is a new
// release.
func TestDataThatAPackageOfAComponentMakesIsNoNewRelease(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	base := publish(t, p, newSystem())
	built := func(program, data string) *Prepared {
		t.Helper()
		files := addition.Files{Source: sourcetest.Bytes(sourcetest.Tar(t,
			sourcetest.Program("usr/bin/mysqld", program),
			sourcetest.File("var/lib/mysql/ibdata1", data), sourcetest.File("var/lib/mysql/"+data, data)))}
		prepared, err := p.Components().Prepare(t.Context(),
			Spec{Name: "mysql", BuiltOn: base.ID, Addition: files}, nil)
		must(t, err)
		must(t, p.Components().Publish(t.Context(), prepared, nil))
		return prepared
	}
	first := built("1", "first")
	if again := built("1", "second"); !again.Unchanged || again.ID != first.ID {
		t.Errorf("other data: %+v", again)
	}
	if patched := built("2", "third"); patched.Unchanged || patched.ID == first.ID || patched.Manifest.Sequence != 2 {
		t.Errorf("another program: %+v", patched)
	}
}

// A joining layer stays for as long as a VM has its layer attached, and goes with the next collection after that.
func TestAJoiningLayerStaysWhileAVMHasIt(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	one := component(t, p, base, pack(t, "redis", "7", ""))
	// It is made of what is stored already: only its record is of interest here.
	joining := *one.Manifest
	joining.Kind, joining.Name = release.Joining, joiningName(base.ID, []tree.Digest{one.ID}, nil)
	signed, id, err := release.Sign(&joining, p.Key)
	must(t, err)
	must(t, s.PutManifest(t.Context(), id, signed))
	must(t, s.SetHistory(t.Context(), release.Joining, joining.Name, store.HistoryOf(id)))

	layer := joining.Layers[0].ID
	must(t, p.Collect(t.Context(), used(map[tree.Digest][]string{layer: {"web"}})))
	if _, err := p.Get(t.Context(), id); err != nil {
		t.Errorf("while a VM has its layer: %v", err)
	}
	must(t, p.Components().Delete(t.Context(), "redis", used(map[tree.Digest][]string{layer: {"web"}})))
	if _, err := s.GetBlob(t.Context(), joining.Contents); err != nil {
		t.Errorf("its contents list, when the component is gone: %v", err)
	}
	must(t, p.Collect(t.Context(), used(nil)))
	if _, err := p.Get(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("when no VM has its layer: %v", err)
	}
	if _, err := s.History(t.Context(), release.Joining, joining.Name); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("its record: %v", err)
	}
}

// Components that are no packages' are not settled by a joining layer.
func TestPartsThatDoNotGoTogether(t *testing.T) {
	entry := func(path, text string) tree.Entry {
		return tree.Entry{Path: path, Type: tree.Regular, Mode: 0o644, Size: int64(len(text)),
			Digest: tree.Sum([]byte(text))}
	}
	root := tree.Entry{Path: tree.Root, Type: tree.Directory, Mode: 0o755}
	with := func(name, input, version string, entries ...tree.Entry) part {
		m := &release.Manifest{Name: name, Input: input,
			Packages: []release.Package{{Name: "openssl", Version: version}}}
		return part{m, &tree.Tree{Entries: append([]tree.Entry{root}, entries...)}}
	}
	const packages, files = "debian:sha256:1", "archive:sha256:1"
	for name, test := range map[string]struct {
		a, b part
		what string
	}{
		"packages write one file": {with("a", packages, "1", entry("f", "1")),
			with("b", packages, "1", entry("f", "2")), ""},
		"files and packages write the same": {with("a", files, "1", entry("f", "1")),
			with("b", packages, "1", entry("f", "1")), ""},
		"files and packages write something else": {with("a", packages, "1", entry("f", "1")), with("b", files, "1", entry("f", "2")), "/f"},
		"a package has two versions": {with("a", packages, "1"),
			with("b", packages, "2"), "package openssl"},
	} {
		on := basis{manifest: &release.Manifest{}, tree: &tree.Tree{Entries: []tree.Entry{root}},
			parts: []part{test.a, test.b}}
		err := on.checkParts()
		var conflict *compose.Conflict
		switch {
		case test.what == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case test.what != "" &&
			(!errors.As(err, &conflict) || conflict.What != test.what ||
				conflict.First != "a" || conflict.Second != "b"):
			t.Errorf("%s: got %v, want a conflict about %s", name, err, test.what)
		}
	}
}

// A package initialises its data anew each time that it is installed. So a stack has the data of the component.
func TestAJoinedTreeHasTheDataOfItsComponents(t *testing.T) {
	entry := func(path, text string) tree.Entry {
		return tree.Entry{Path: path, Type: tree.Regular, Mode: 0o644, Size: int64(len(text)),
			Digest: tree.Sum([]byte(text))}
	}
	of := func(entries ...tree.Entry) *tree.Tree {
		t.Helper()
		for _, path := range []string{tree.Root, "var", "var/lib", "var/lib/pg", "var/lib/my", "var/lib/both"} {
			entries = append(entries, tree.Entry{Path: path, Type: tree.Directory, Mode: 0o755})
		}
		slices.SortFunc(entries, func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
		entries = slices.CompactFunc(entries, tree.Equal)
		made, err := tree.New(entries, nil)
		must(t, err)
		return made
	}
	const packages = "debian:sha256:1"
	base := of(entry("var/lib/my/ibdata1", "base"), entry("var/lib/my/log", "base"))
	on := basis{manifest: &release.Manifest{}, tree: base, parts: []part{
		{&release.Manifest{Name: "a", Input: packages}, of(append(base.Entries, entry("var/lib/pg/PG_VERSION", "17"), entry("var/lib/pg/control", "a"))...)},
		{&release.Manifest{Name: "b", Input: packages}, of(append(base.Entries, entry("status", "b"),
			entry("var/lib/pg/PG_VERSION", "17"), entry("var/lib/pg/control", "b"),
			entry("var/lib/pg/segment", "b"))...)},
	}}
	made := of(entry("var/lib/pg/PG_VERSION", "17"), entry("var/lib/pg/control", "made"),
		entry("var/lib/pg/control.new", "made"), entry("status", "both"),
		entry("var/lib/my/ibdata1", "made"), entry("var/lib/my/log", "made"), entry("var/lib/both/data.mdb", "made"))
	whole, _, err := on.joined(made)
	must(t, err)
	want := of(entry("var/lib/pg/PG_VERSION", "17"), entry("var/lib/pg/control", "a"), entry("status", "both"),
		entry("var/lib/my/ibdata1", "base"), entry("var/lib/my/log", "base"),
		// Only the two together have this one.
		entry("var/lib/both/data.mdb", "made"))
	if !slices.EqualFunc(whole.Entries, want.Entries, tree.Equal) {
		t.Errorf("got %v, want %v", whole.Entries, want.Entries)
	}
}

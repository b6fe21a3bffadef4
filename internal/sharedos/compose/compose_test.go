package compose_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

type tester interface {
	Helper()
	Fatal(values ...any)
	Fatalf(format string, values ...any)
}

// world holds releases with their contents lists.
type world struct {
	t     tester
	lists map[tree.Digest][]byte
}

func newWorld(t tester) *world { return &world{t, map[tree.Digest][]byte{}} }

func (w *world) open(one release.Identified) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(w.lists[one.Manifest.Contents.Digest])), nil
}

// put gives a release an id and keeps its contents list.
func (w *world) put(m *release.Manifest, files map[string]string) release.Identified {
	w.t.Helper()
	return w.putEntries(m, entriesOf(files))
}

func (w *world) putEntries(m *release.Manifest, entries []tree.Entry) release.Identified {
	w.t.Helper()
	var list bytes.Buffer
	var err error
	if m.Contents, err = release.WriteContents(&list, entries); err != nil {
		w.t.Fatal(err)
	}
	w.lists[m.Contents.Digest] = list.Bytes()
	encoded, err := m.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return release.Identified{ID: release.ID(encoded), Manifest: m}
}

func layerOf(name string, delta bool) release.Layer {
	return release.Layer{ID: tree.Sum([]byte(name)), DataSize: 4096, Size: 8192, Delta: delta}
}

func base() *release.Manifest {
	blob := release.Blob{Digest: tree.Sum([]byte("kernel")), Size: 1}
	return &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: "debian-13", Sequence: 1, Architecture: "amd64", OS: "Debian",
		Layers:   []release.Layer{layerOf("base", false)},
		Kernel:   &release.Kernel{Release: "6.12", Image: blob, Modules: blob},
		Packages: []release.Package{{Name: "libc6", Version: "2.41"}},
		Users:    map[string]uint32{"root": 0, "www-data": 33}, Groups: map[string]uint32{"root": 0, "www-data": 33},
	}
}

// component is one on a base, with what the base has and what add adds to that.
func component(on release.Identified, name string, add func(*release.Manifest)) *release.Manifest {
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Component, Name: name, Sequence: 1, BuiltOn: on.ID,
		Architecture: "amd64", OS: "Debian",
		Layers: []release.Layer{layerOf(name, true)}, Packages: slices.Clone(on.Manifest.Packages),
		Users: maps.Clone(on.Manifest.Users), Groups: maps.Clone(on.Manifest.Groups),
	}
	if add != nil {
		add(m)
	}
	return m
}

// entriesOf makes a tree of files by path, with the directories that hold them. A path that ends in "/" is a directory,
// whose text is its mode.
func entriesOf(files map[string]string) []tree.Entry {
	all := map[string]tree.Entry{tree.Root: {Path: tree.Root, Type: tree.Directory, Mode: 0o755}}
	for path, text := range files {
		entry := tree.Entry{Path: path, Type: tree.Regular, Mode: 0o644, Size: int64(len(text)),
			Digest: tree.Sum([]byte(text))}
		if directory, is := strings.CutSuffix(path, "/"); is {
			entry = tree.Entry{Path: directory, Type: tree.Directory}
			_, _ = fmt.Sscanf(text, "%o", &entry.Mode)
		}
		all[entry.Path] = entry
		for at := tree.Parent(entry.Path); at != tree.Root; at = tree.Parent(at) {
			if _, there := all[at]; !there {
				all[at] = tree.Entry{Path: at, Type: tree.Directory, Mode: 0o755}
			}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
}

func (w *world) read(list []byte) []tree.Entry {
	w.t.Helper()
	var entries []tree.Entry
	for reader := release.NewContentsReader(bytes.NewReader(list)); ; {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			w.t.Fatal(err)
		}
		entries = append(entries, entry)
	}
}

func TestABaseAloneIsAStack(t *testing.T) {
	w := newWorld(t)
	one := w.put(base(), map[string]string{"usr/bin/sh": "shell"})
	stack, merged, err := compose.Compose(compose.Parts{Base: one}, nil)
	if err != nil || merged != nil {
		t.Fatal(merged, err)
	}
	m := one.Manifest
	want := &release.StackManifest{
		Schema: release.StackSchema, Base: release.Member{ID: one.ID, Name: "debian-13", Sequence: 1},
		Architecture: "amd64", OS: "Debian",
		Layers: m.Layers, Contents: m.Contents, Kernel: *m.Kernel, Packages: m.Packages,
		Users: m.Users, Groups: m.Groups,
	}
	if diff := cmp.Diff(want, stack); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	again, _, err := compose.Compose(compose.Parts{Base: one}, nil)
	if first, second := encode(t, stack), encode(t, again); err != nil || !bytes.Equal(first, second) {
		t.Errorf("composed twice it is %s and %s, %v", first, second, err)
	}
}

func encode(t *testing.T, stack *release.StackManifest) []byte {
	t.Helper()
	encoded, err := stack.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return encoded
}

func TestOneComponentNeedsNoMerging(t *testing.T) {
	w := newWorld(t)
	one := w.put(base(), map[string]string{"usr/bin/sh": "shell"})
	nginx := w.put(component(one, "nginx", func(m *release.Manifest) {
		m.Packages = append(m.Packages, release.Package{Name: "nginx-light", Version: "1.26"})
	}), map[string]string{"usr/bin/sh": "shell", "usr/sbin/nginx": "server"})
	stack, merged, err := compose.Compose(compose.Parts{Base: one, Components: []release.Identified{nginx}}, nil)
	if err != nil || merged != nil {
		t.Fatal(merged, err)
	}
	if stack.Contents != nginx.Manifest.Contents || len(stack.Packages) != 2 || len(stack.Layers) != 2 ||
		stack.Components[0].ID != nginx.ID {
		t.Errorf("composed %+v", stack)
	}
}

func TestTwoComponentsAreOneTree(t *testing.T) {
	w := newWorld(t)
	one := w.put(base(), map[string]string{"usr/bin/sh": "shell", "usr/share/old": "old", "etc/both": "0"})
	shared := layerOf("shared", true)
	a := w.put(component(one, "a", func(m *release.Manifest) {
		m.Packages = append(m.Packages, release.Package{Name: "zlib", Version: "1"})
		m.Users["a"] = 100
		m.Layers = append(m.Layers, shared)
	}), map[string]string{"usr/bin/sh": "shell", "usr/share/old": "old", "usr/bin/a": "program a", "etc/both": "1"})
	b := w.put(component(one, "b", func(m *release.Manifest) {
		m.Packages = append([]release.Package{{Name: "apt", Version: "3"}}, m.Packages...)
		m.Users["b"] = 101
		m.Layers = append(m.Layers, shared)
	}), map[string]string{"usr/bin/sh": "new shell", "usr/bin/b": "program b", "etc/both": "1"})
	stack, merged, err := compose.Compose(compose.Parts{Base: one, Components: []release.Identified{a, b}}, w.open)
	if err != nil {
		t.Fatal(err)
	}
	want := entriesOf(map[string]string{"usr/bin/sh": "new shell", "usr/bin/a": "program a",
		"usr/bin/b": "program b", "etc/both": "1"})
	if diff := cmp.Diff(want, w.read(merged)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if stack.Contents.Digest != tree.Sum(merged) || stack.Contents.Size != int64(len(merged)) {
		t.Errorf("it names %+v", stack.Contents)
	}
	packages := []release.Package{{Name: "apt", Version: "3"}, {Name: "libc6", Version: "2.41"},
		{Name: "zlib", Version: "1"}}
	if diff := cmp.Diff(packages, stack.Packages); diff != "" {
		t.Errorf("packages: -want +got\n%s", diff)
	}
	if users := map[string]uint32{"root": 0, "www-data": 33, "a": 100, "b": 101}; !maps.Equal(users, stack.Users) {
		t.Errorf("users are %v", stack.Users)
	}
	if want := []release.Layer{layerOf("base", false), layerOf("a", true), shared,
		layerOf("b", true)}; !slices.Equal(want, stack.Layers) {
		t.Errorf("layers are %v", stack.Layers)
	}
}

// What two packages write together must not be hidden by the one that is laid over the other.
func TestTwoComponentsConflict(t *testing.T) {
	files := map[string]string{"usr/lib/dpkg/status": "libc6", "etc/passwd": "root", "usr/share/d/x": "x",
		"usr/share/d/y": "y", "usr/file": "f"}
	with := func(changes map[string]string) map[string]string {
		all := maps.Clone(files)
		for path, text := range changes {
			if all[path] = text; text == "" {
				delete(all, path)
			}
		}
		return all
	}
	for name, test := range map[string]struct {
		a, b       map[string]string
		addA, addB func(*release.Manifest)
		// what is the conflict about, and first what its first side makes of that; "" if any.
		what, first string
	}{
		"the package database": {
			a:    map[string]string{"usr/lib/dpkg/status": "libc6 postgresql"},
			b:    map[string]string{"usr/lib/dpkg/status": "libc6 redis"},
			what: "/usr/lib/dpkg/status",
		},
		"accounts": {a: map[string]string{"etc/passwd": "root postgres"}, b: map[string]string{"etc/passwd": "root redis"}, what: "/etc/passwd"},
		"a file that one removes and one changes": {
			a: map[string]string{"usr/share/d/x": ""},
			b: map[string]string{"usr/share/d/x": "changed"}, what: "/usr/share/d/x",
		},
		"a new file of both": {a: map[string]string{"usr/new": "1"},
			b: map[string]string{"usr/new": "2"}, what: "/usr/new"},
		"a directory and a file": {a: map[string]string{"usr/new/file": "1"},
			b: map[string]string{"usr/new": "2"}, what: "/usr/new"},
		"a directory that one removes": {a: map[string]string{"usr/share/d/x": "", "usr/share/d/y": ""},
			b: map[string]string{"usr/share/d/z": "z"}, what: "/usr/share/d"},
		"a directory that one replaces": {a: map[string]string{"usr/share/d/x": "", "usr/share/d/y": "",
			"usr/share/d": "file"}, b: map[string]string{"usr/share/d/z": "z"}, what: "/usr/share/d"},
		"a mode that the layer above does not know": {
			a: map[string]string{"usr/share/d/": "0700"},
			b: map[string]string{"usr/share/d/z": "z"}, what: "/usr/share/d",
		},
		"the mode of a directory of the top level": {a: map[string]string{"usr/": "0700"}, b: map[string]string{"etc/new": "z"}, what: "/usr"},
		"additions that the layer above hides": {
			a:    map[string]string{"usr/share/d/z": "z"},
			b:    map[string]string{"usr/share/d/x": "", "usr/share/d/y": "", "usr/share/d/": "0755"},
			what: "/usr/share/d/z",
		},
		"a package": {
			addA: func(m *release.Manifest) { m.Packages[0].Version = "2.42" },
			addB: func(m *release.Manifest) { m.Packages[0].Version = "2.43" },
			what: "package libc6",
		},
		"an account": {
			addA: func(m *release.Manifest) { m.Users["app"] = 100 },
			addB: func(m *release.Manifest) { m.Users["app"] = 101 }, what: "user app",
		},
		"an account that one of them removes": {
			addA: func(m *release.Manifest) { delete(m.Users, "www-data") },
			addB: func(m *release.Manifest) { m.Users["www-data"] = 34 },
			what: "user www-data", first: "removed it",
		},
		"an account's number": {
			addA: func(m *release.Manifest) { m.Groups["postgres"] = 100 },
			addB: func(m *release.Manifest) { m.Groups["redis"] = 100 }, what: "group number 100",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			one := w.put(base(), files)
			a, b := w.put(component(one, "a", test.addA), with(test.a)),
				w.put(component(one, "b", test.addB), with(test.b))
			_, _, err := compose.Compose(compose.Parts{Base: one, Components: []release.Identified{a, b}}, w.open)
			var conflict *compose.Conflict
			if !errors.As(err, &conflict) || !errors.Is(err, compose.ErrConflict) || !errors.Is(err, compose.ErrStack) {
				t.Fatalf("got %v", err)
			}
			if names := []string{conflict.First, conflict.Second}; conflict.What != test.what ||
				!slices.Contains(names, "a") || !slices.Contains(names, "b") {
				t.Errorf("it says %v", err)
			}
			if test.first != "" && conflict.FirstMakes != test.first {
				t.Errorf("it says that %s makes %q, want %q", conflict.First, conflict.FirstMakes, test.first)
			}
			// A joining layer settles it.
			joined := w.put(component(one, "joined", nil), with(test.a))
			stack, merged, err := compose.Compose(compose.Parts{Base: one, Components: []release.Identified{a, b},
				Joining: &compose.Joining{
					Layer: layerOf("joining", true), Contents: joined.Manifest.Contents, Users: one.Manifest.Users,
				}}, nil)
			if err != nil || merged != nil || stack.Contents != joined.Manifest.Contents ||
				stack.Layers[len(stack.Layers)-1] != layerOf("joining", true) {
				t.Errorf("with a joining layer: %+v, %v", stack, err)
			}
		})
	}
}

func TestWhatDoesNotGoTogether(t *testing.T) {
	w := newWorld(t)
	one := w.put(base(), map[string]string{"usr/bin/sh": "shell"})
	later := base()
	later.Sequence, later.Previous = 2, one.ID
	two := w.put(later, map[string]string{"usr/bin/sh": "later shell"})
	plain := func(name string, add func(*release.Manifest)) release.Identified {
		return w.put(component(one, name, add), map[string]string{"usr/bin/sh": "shell"})
	}
	nginx := plain("nginx", nil)
	newer := plain("nginx", func(m *release.Manifest) { m.Sequence, m.Previous = 2, nginx.ID })
	many := func(n, layers int) (all []release.Identified) {
		for i := range n {
			all = append(all, plain(fmt.Sprint("c", i), func(m *release.Manifest) {
				m.Layers = nil
				for j := range layers {
					m.Layers = append(m.Layers, layerOf(fmt.Sprint(i, j), true))
				}
			}))
		}
		return all
	}
	for name, test := range map[string]struct {
		parts compose.Parts
		want  error
		says  []string
	}{
		"a base as a component": {compose.Parts{Base: one, Components: []release.Identified{two}}, compose.ErrKind,
			[]string{two.ID.String(), `base "debian-13"`}},
		"a component as the base": {compose.Parts{Base: nginx}, compose.ErrKind, []string{nginx.ID.String(), `component "nginx"`}},
		"a component of another base release": {
			compose.Parts{Base: two, Components: []release.Identified{nginx}}, compose.ErrBuiltOn,
			[]string{`"nginx"`, one.ID.String(), two.ID.String()},
		},
		"a component twice": {compose.Parts{Base: one, Components: []release.Identified{nginx, nginx}},
			compose.ErrTwice, []string{`"nginx"`}},
		"two releases of one component": {compose.Parts{Base: one, Components: []release.Identified{nginx, newer}},
			compose.ErrTwice, []string{nginx.ID.String(), newer.ID.String()}},
		"another architecture": {compose.Parts{Base: one,
			Components: []release.Identified{plain("arm", func(m *release.Manifest) { m.Architecture = "arm64" })}},
			compose.ErrArchitecture, []string{"arm64", "amd64"}},
		"more components than a VM has": {compose.Parts{Base: one, Components: many(17, 1)}, compose.ErrTooMany,
			[]string{"17 components", "16"}},
		"more layers than a VM can have": {compose.Parts{Base: one, Components: many(12, 2)}, compose.ErrTooMany, []string{"25 layers", "24"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := compose.Compose(test.parts, w.open)
			if !errors.Is(err, test.want) || !errors.Is(err, compose.ErrStack) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			for _, text := range test.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not in: %v", text, err)
				}
			}
		})
	}
	if _, _, err := compose.Compose(compose.Parts{Base: one, Components: many(11, 2)}, w.open); err != nil {
		t.Errorf("a stack of 23 layers: %v", err)
	}
}

func TestAListThatIsNotTheReleasesIsAnError(t *testing.T) {
	w := newWorld(t)
	one := w.put(base(), map[string]string{"usr/bin/sh": "shell"})
	a, b := w.put(component(one, "a", nil), map[string]string{"usr/a": "a"}),
		w.put(component(one, "b", nil), map[string]string{"usr/b": "b"})
	w.lists[a.Manifest.Contents.Digest] = w.lists[b.Manifest.Contents.Digest]
	_, merged, err := compose.Compose(compose.Parts{Base: one, Components: []release.Identified{a, b}}, w.open)
	if !errors.Is(err, release.ErrContents) || errors.Is(err, compose.ErrStack) || merged != nil {
		t.Errorf("got %v", err)
	}
}

// Whatever components change: if they are merged, the list is of the tree that overlayfs shows of their layers.
func TestTheMergedListIsWhatTheLayersShow(t *testing.T) {
	merged := 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		names := rapid.SampledFrom([]string{"a", "b", "c"})
		kinds := rapid.SampledFrom([]string{"1", "2", "3"})
		modes := rapid.SampledFrom([]string{"0755", "0700"})
		draw := func(files map[string]string, changes int) map[string]string {
			files = maps.Clone(files)
			for range changes {
				path := "usr"
				for range rapid.IntRange(0, 3).Draw(t, "depth") {
					path += "/" + names.Draw(t, "name")
				}
				isDirectory := rapid.Bool().Draw(t, "directory") || path == "usr"
				remove := rapid.IntRange(0, 2).Draw(t, "remove") == 0 && path != "usr"
				for known := range files {
					plain := strings.TrimSuffix(known, "/")
					switch {
					case strings.HasPrefix(plain, path+"/") && (remove || !isDirectory), plain == path:
						delete(files, known)
					case strings.HasPrefix(path, plain+"/") && !strings.HasSuffix(known, "/"):
						delete(files, known) // a file where a directory is to be
					}
				}
				switch {
				case remove:
				case isDirectory:
					files[path+"/"] = modes.Draw(t, "mode")
				default:
					files[path] = kinds.Draw(t, "content")
				}
			}
			return files
		}
		files := draw(map[string]string{"usr/": "0755", "etc/": "0755"}, rapid.IntRange(0, 8).Draw(t, "files"))
		one := w.put(base(), files)
		parts, shows := compose.Parts{Base: one}, entriesOf(files)
		for i := range rapid.IntRange(2, 3).Draw(t, "components") {
			entries := entriesOf(draw(files, rapid.IntRange(0, 3).Draw(t, "changes")))
			parts.Components = append(parts.Components, w.putEntries(component(one, fmt.Sprint("c", i), nil), entries))
			shows = layer.Apply(shows, layer.Delta(entriesOf(files), entries))
		}
		_, list, err := compose.Compose(parts, w.open)
		if errors.Is(err, compose.ErrConflict) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		merged++
		if diff := cmp.Diff(shows, w.read(list)); diff != "" {
			t.Fatalf("what the layers show, and the list: -want +got\n%s", diff)
		}
	})
	if merged < 20 {
		t.Errorf("only %d stacks had no conflict", merged)
	}
}

// A component that removes an account of the base and gives its number to another would give that account's files away.
func TestAComponentMustNotReuseTheNumberOfAnAccountOfTheBase(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"etc/passwd": "root", "usr/bin/app": "1"}
	one := w.put(base(), files)
	reuse := func(m *release.Manifest) {
		delete(m.Users, "www-data")
		m.Users["app"] = 33
	}
	a, b := w.put(component(one, "a", reuse), files), w.put(component(one, "b", nil), files)
	_, _, err := compose.Compose(compose.Parts{Base: one, Components: []release.Identified{a, b}}, w.open)
	var conflict *compose.Conflict
	if !errors.As(err, &conflict) || conflict.What != "user number 33" || conflict.FirstMakes != "www-data" ||
		conflict.SecondMakes != "app" {
		t.Errorf("got %v", err)
	}
}

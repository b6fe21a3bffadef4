package compose_test

import (
	"errors"
	"fmt"
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

// merge returns the files of all maps.
func merge(all ...map[string]string) map[string]string {
	merged := map[string]string{}
	for _, one := range all {
		maps.Copy(merged, one)
	}
	return merged
}

// standIn is that of a component, with the files of a base and its own.
func (w *world) standIn(on, component release.Identified, files map[string]string) compose.StandIn {
	w.t.Helper()
	return compose.StandIn{Component: component, Release: w.put(standInOf(on, component), files)}
}

func standInOf(on, component release.Identified) *release.Manifest {
	return &release.Manifest{
		Schema: release.Schema, Kind: release.StandIn, Name: "of-" + component.Manifest.Name, Sequence: 1,
		BuiltOn: on.ID, Architecture: "amd64", OS: "Debian",
		Layers: []release.Layer{layerOf("stand-in of "+component.Manifest.Name, true)},
	}
}

func TestAStackWithStandIns(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"usr/bin/sh": "shell"}
	own := map[string]string{"usr/sbin/sharedos": "agent", "usr/lib/x/generator": "agent"}
	one := w.put(base(), files)
	a := w.put(component(one, "a", func(m *release.Manifest) { m.Users["a"] = 100 }),
		merge(files, map[string]string{"usr/bin/a": "program a", "usr/bin/both": "program"}))
	b := w.put(component(one, "b", nil),
		merge(files, map[string]string{"usr/bin/b": "program b", "usr/bin/both": "program"}))
	ofA := w.standIn(one, a,
		merge(files, own, map[string]string{"usr/bin/a": "call a", "usr/bin/both": "call a", "usr/lib/x/a": ""}))
	ofB := w.standIn(one, b,
		merge(files, own, map[string]string{"usr/bin/b": "call b", "usr/bin/both": "call b", "usr/lib/x/b": ""}))
	layers := map[string]release.Layer{}
	for _, name := range []string{"base", "a", "b", "stand-in of a", "stand-in of b"} {
		layers[name] = layerOf(name, name != "base")
	}
	member := func(one release.Identified) release.Member {
		return release.Member{ID: one.ID, Name: one.Manifest.Name, Sequence: 1}
	}
	for name, test := range map[string]struct {
		components []release.Identified
		standIns   []compose.StandIn
		layers     []string
		shows      map[string]string
	}{
		"of both": {
			nil, []compose.StandIn{ofA, ofB},
			[]string{"base", "stand-in of a", "stand-in of b"},
			merge(files, own, map[string]string{"usr/bin/a": "call a", "usr/bin/b": "call b", "usr/bin/both": "call b",
				"usr/lib/x/a": "", "usr/lib/x/b": ""}),
		},
		"of one, with the other": {
			[]release.Identified{a}, []compose.StandIn{ofB},
			[]string{"base", "stand-in of b", "a"},
			merge(files, own, map[string]string{"usr/bin/a": "program a", "usr/bin/b": "call b",
				"usr/bin/both": "program", "usr/lib/x/b": ""}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			stack, merged, err := compose.Compose(compose.Parts{Base: one, Components: test.components,
				StandIns: test.standIns}, w.open)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(entriesOf(test.shows), w.read(merged)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			var wantLayers []release.Layer
			for _, name := range test.layers {
				wantLayers = append(wantLayers, layers[name])
			}
			var offered, components []release.Member
			for _, one := range test.standIns {
				offered = append(offered, member(one.Component))
			}
			for _, one := range test.components {
				components = append(components, member(one))
			}
			if !slices.Equal(stack.Layers, wantLayers) || !slices.Equal(stack.Offered, offered) ||
				!slices.Equal(stack.Components, components) || stack.BaseLayers != 1 {
				t.Errorf("composed %+v", stack)
			}
			if stack.Contents != (release.Blob{Digest: tree.Sum(merged), Size: int64(len(merged))}) {
				t.Errorf("its list is %+v", stack.Contents)
			}
			if _, has := stack.Users["a"]; has != (len(test.components) > 0) {
				t.Errorf("its users are %v", stack.Users)
			}
			if again, err := release.DecodeStack(encode(t, stack)); err != nil ||
				!slices.Equal(again.Offered, offered) {
				t.Errorf("decoded it offers %v, %v", again, err)
			}
		})
	}
}

// With two components the list of the rest is merged, and with a joining layer it is that layer's.
func TestStandInsBesideSeveralComponents(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"usr/bin/sh": "shell"}
	one := w.put(base(), files)
	a := w.put(component(one, "a", nil), merge(files, map[string]string{"usr/bin/a": "a"}))
	b := w.put(component(one, "b", nil), merge(files, map[string]string{"usr/bin/b": "b"}))
	c := w.put(component(one, "c", nil), merge(files, map[string]string{"usr/bin/c": "c"}))
	parts := compose.Parts{
		Base: one, Components: []release.Identified{a, b},
		StandIns: []compose.StandIn{w.standIn(one, c,
			merge(files, map[string]string{"usr/bin/c": "call c", "usr/share/cache": "call c"}))},
	}
	check := func(want map[string]string) {
		t.Helper()
		_, merged, err := compose.Compose(parts, w.open)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(entriesOf(want), w.read(merged)); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
	check(merge(files, map[string]string{"usr/bin/a": "a", "usr/bin/b": "b", "usr/bin/c": "call c",
		"usr/share/cache": "call c"}))
	m := component(one, "joined", nil)
	m.Kind = release.Joining
	joined := w.put(m, merge(files, map[string]string{"usr/bin/a": "a", "usr/bin/b": "b", "usr/share/cache": "joined"}))
	parts.Joining = &compose.Joining{Release: joined, Layer: m.Layers[0], Contents: m.Contents}
	check(merge(files, map[string]string{"usr/bin/a": "a", "usr/bin/b": "b", "usr/bin/c": "call c",
		"usr/share/cache": "joined"}))
	parts.Joining.Release = release.Identified{}
	if _, _, err := compose.Compose(parts, w.open); err == nil {
		t.Error("without the release of the joining layer there is no error")
	}
}

func TestStandInsThatConflict(t *testing.T) {
	files := map[string]string{"usr/share/d/x": "x", "usr/games/chess": "1"}
	without := func(all map[string]string, paths ...string) map[string]string {
		all = maps.Clone(all)
		for _, path := range paths {
			delete(all, path)
		}
		return all
	}
	for name, test := range map[string]struct {
		attached, standIn, other map[string]string
		what, second, makes      string
	}{
		"a directory that a component removes": {
			attached: without(files, "usr/games/chess"),
			standIn:  merge(files, map[string]string{"usr/games/go": "call"}), what: "/usr/games/go", second: "a",
			makes: "no /usr/games",
		},
		"a directory that a component replaces": {
			attached: merge(without(files, "usr/games/chess"), map[string]string{"usr/games": "file"}),
			standIn:  merge(files, map[string]string{"usr/games/go": "call"}), what: "/usr/games/go", second: "a",
			makes: "its own /usr/games, which hides that",
		},
		"a directory that a component empties": {
			attached: merge(without(files, "usr/games/chess"), map[string]string{"usr/games/": "0755"}),
			standIn:  merge(files, map[string]string{"usr/games/go": "call"}), what: "/usr/games/go", second: "a",
		},
		"a file in place of a new directory": {
			attached: merge(files, map[string]string{"usr/new": "file"}),
			standIn:  merge(files, map[string]string{"usr/new/file": "call"}), what: "/usr/new/file", second: "a",
		},
		"a directory and a file of two stand-ins": {
			attached: files, standIn: merge(files, map[string]string{"usr/new/file": "call"}),
			other: merge(files, map[string]string{"usr/new": "call"}),
			what:  "/usr/new", second: "c",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			one := w.put(base(), files)
			a, b, c := w.put(component(one, "a", nil), test.attached), w.put(component(one, "b", nil), files),
				w.put(component(one, "c", nil), files)
			parts := compose.Parts{Base: one, Components: []release.Identified{a},
				StandIns: []compose.StandIn{w.standIn(one, b, test.standIn)}}
			if test.other != nil {
				parts.StandIns = append(parts.StandIns, w.standIn(one, c, test.other))
			}
			_, _, err := compose.Compose(parts, w.open)
			var conflict *compose.Conflict
			if !errors.As(err, &conflict) || !errors.Is(err, compose.ErrStack) || conflict.What != test.what ||
				conflict.First != "b" || conflict.Second != test.second {
				t.Fatalf("got %v", err)
			}
			if test.makes != "" && conflict.SecondMakes != test.makes {
				t.Errorf("it says that %s makes %q, want %q", test.second, conflict.SecondMakes, test.makes)
			}
		})
	}
}

func TestStandInsThatDoNotGoTogether(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"usr/bin/sh": "shell"}
	one := w.put(base(), files)
	later := base()
	later.Sequence, later.Previous = 2, one.ID
	two := w.put(later, files)
	of := func(name string) compose.StandIn {
		return w.standIn(one, w.put(component(one, name, nil), files), files)
	}
	changed := func(change func(*release.Manifest)) compose.StandIn {
		s := of("a")
		m := standInOf(one, s.Component)
		change(m)
		s.Release = w.put(m, files)
		return s
	}
	elsewhere := w.put(component(two, "a", nil), files)
	for name, test := range map[string]struct {
		parts compose.Parts
		want  error
		says  string
	}{
		"four": {compose.Parts{StandIns: []compose.StandIn{of("a"), of("b"), of("c"), of("d")}},
			compose.ErrTooMany, "4 components on demand"},
		"attached and on demand": {compose.Parts{Components: []release.Identified{of("a").Component},
			StandIns: []compose.StandIn{of("a")}}, compose.ErrTwice, `"a"`},
		"on demand twice": {compose.Parts{StandIns: []compose.StandIn{of("a"), of("a")}},
			compose.ErrTwice, `"a"`},
		"of another base release": {compose.Parts{StandIns: []compose.StandIn{w.standIn(one, elsewhere, files)}},
			compose.ErrBuiltOn, two.ID.String()},
		"a base as a component": {compose.Parts{StandIns: []compose.StandIn{{Component: one,
			Release: of("a").Release}}}, compose.ErrKind, one.ID.String()},
		"a component as its stand-in": {compose.Parts{StandIns: []compose.StandIn{{Component: of("a").Component,
			Release: of("a").Component}}}, compose.ErrKind, `component "a"`},
		"stand-ins on another release": {compose.Parts{StandIns: []compose.StandIn{changed(
			func(m *release.Manifest) { m.BuiltOn = two.ID })}}, compose.ErrKind, two.ID.String()},
		"another architecture": {compose.Parts{StandIns: []compose.StandIn{changed(
			func(m *release.Manifest) { m.Architecture = "arm64" })}}, compose.ErrKind, "arm64"},
	} {
		t.Run(name, func(t *testing.T) {
			test.parts.Base = one
			_, _, err := compose.Compose(test.parts, w.open)
			if !errors.Is(err, test.want) || !errors.Is(err, compose.ErrStack) ||
				!strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
	toMake := compose.Parts{Base: one, StandIns: []compose.StandIn{{Component: of("a").Component}}}
	if err := toMake.Check(); err != nil {
		t.Errorf("before the stand-ins are made: %v", err)
	}
	if _, _, err := compose.Compose(toMake, w.open); err == nil || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("composed without the stand-in layer: %v", err)
	}
	full := base()
	for i := range release.MaxStackLayers {
		full.Layers = append(full.Layers[:i], layerOf(fmt.Sprint("base", i), i > 0))
	}
	whole := w.put(full, files)
	toMake = compose.Parts{Base: whole,
		StandIns: []compose.StandIn{{Component: w.put(component(whole, "a",
			func(m *release.Manifest) { m.Layers = full.Layers[1:2] }), files)}}}
	if err := toMake.Check(); !errors.Is(err, compose.ErrTooMany) {
		t.Errorf("before the stand-ins are made, of too many layers: %v", err)
	}
	changes := w.standIn(one, of("a").Component, map[string]string{"usr/bin/sh": "another shell"})
	if _, _, err := compose.Compose(compose.Parts{Base: one, StandIns: []compose.StandIn{changes}},
		w.open); err == nil || !strings.Contains(err.Error(), "/usr/bin/sh") {
		t.Errorf("stand-ins that change the base: %v", err)
	}
}

// Whatever the parts are, the list is what the layers show.
func TestTheListWithStandInsIsWhatTheLayersShow(t *testing.T) {
	composed, shown := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		draw := func(files map[string]string, changes int, only bool) map[string]string {
			was := entriesOf(files)
			files = maps.Clone(files)
			for range changes {
				path := "usr"
				for range rapid.IntRange(1, 3).Draw(t, "depth") {
					path += "/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "name")
				}
				remove := !only && rapid.IntRange(0, 2).Draw(t, "remove") == 0
				directory := !remove && rapid.IntRange(0, 3).Draw(t, "directory") == 0
				fits := true
				if only { // stand-ins only add
					for _, e := range was {
						fits = fits && e.Path != path &&
							(!strings.HasPrefix(path, e.Path+"/") || e.Type == tree.Directory)
					}
				}
				if !fits {
					continue
				}
				for known := range files {
					plain := strings.TrimSuffix(known, "/")
					if plain == path || strings.HasPrefix(plain, path+"/") && !directory ||
						strings.HasPrefix(path, plain+"/") && !strings.HasSuffix(known, "/") {
						delete(files, known)
					}
				}
				switch {
				case remove:
				case directory:
					files[path+"/"] = rapid.SampledFrom([]string{"0755", "0700"}).Draw(t, "mode")
				default:
					files[path] = rapid.SampledFrom([]string{"1", "2"}).Draw(t, "content")
				}
			}
			return files
		}
		files := draw(map[string]string{"usr/": "0755", "etc/": "0755"}, rapid.IntRange(0, 6).Draw(t, "files"), false)
		below := entriesOf(files)
		one := w.putEntries(base(), below)
		parts, shows, under := compose.Parts{Base: one}, below, below
		for i := range rapid.IntRange(1, 2).Draw(t, "stand-ins") {
			on := w.put(component(one, fmt.Sprint("s", i), nil), files)
			entries := entriesOf(draw(files, rapid.IntRange(1, 3).Draw(t, "changes"), true))
			parts.StandIns = append(parts.StandIns,
				compose.StandIn{Component: on, Release: w.putEntries(standInOf(one, on), entries)})
			shows = layer.Apply(shows, layer.Delta(below, entries))
		}
		for i := range rapid.IntRange(0, 2).Draw(t, "components") {
			entries := entriesOf(draw(files, rapid.IntRange(0, 3).Draw(t, "changes"), false))
			parts.Components = append(parts.Components, w.putEntries(component(one, fmt.Sprint("c", i), nil), entries))
			delta := layer.Delta(below, entries)
			shows, under = layer.Apply(shows, delta), layer.Apply(under, delta)
		}
		if len(parts.Components) > 1 && rapid.Bool().Draw(t, "joining") {
			m := component(one, "joining", nil)
			m.Kind = release.Joining
			entries := entriesOf(draw(files, rapid.IntRange(0, 3).Draw(t, "changes"), false))
			parts.Joining = &compose.Joining{Release: w.putEntries(m, entries),
				Layer: m.Layers[0], Contents: m.Contents}
			shows = layer.Apply(shows, layer.Delta(under, entries))
		}
		_, list, err := compose.Compose(parts, w.open)
		if errors.Is(err, compose.ErrConflict) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		composed++
		if len(shows) > len(below) {
			shown++
		}
		if diff := cmp.Diff(shows, w.read(list)); diff != "" {
			t.Fatalf("what the layers show, and the list: -want +got\n%s", diff)
		}
	})
	if composed < 20 || shown < 10 {
		t.Errorf("only %d stacks had no conflict, and %d showed stand-ins", composed, shown)
	}
}

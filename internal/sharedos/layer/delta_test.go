package layer

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func directory(path string) tree.Entry {
	return tree.Entry{Path: path, Type: tree.Directory, Mode: 0o755}
}

func file(path, text string) tree.Entry {
	return tree.Entry{Path: path, Type: tree.Regular, Mode: 0o644, Size: int64(len(text)),
		Digest: tree.Sum([]byte(text))}
}

func whiteout(path string) tree.Entry { return tree.Entry{Path: path, Type: tree.CharDevice} }

func opaque(e tree.Entry) tree.Entry {
	e.Xattrs = map[string]string{"trusted.overlay.opaque": "y"}
	return e
}

func mode(e tree.Entry, mode uint32) tree.Entry {
	e.Mode = mode
	return e
}

func TestDelta(t *testing.T) {
	old := []tree.Entry{
		rootEntry(), directory("etc"), file("etc/conf", "1"), directory("usr"), directory("usr/bin"),
		file("usr/bin/a", "a"), file("usr/bin/b", "b"), directory("usr/lib"), directory("usr/lib/x"),
		file("usr/lib/x/y", "y"), file("usr/plain", "p"),
	}
	// The root and the directories of the top level are in every delta.
	frame := []tree.Entry{rootEntry(), directory("etc"), directory("usr")}
	for name, test := range map[string]struct {
		change map[string]tree.Entry // no type: removed
		want   []tree.Entry
	}{
		"nothing changed": {nil, frame},
		"a file changed": {
			map[string]tree.Entry{"usr/bin/a": file("usr/bin/a", "A")},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), directory("usr/bin"), file("usr/bin/a", "A")},
		},
		"a file changed below a directory whose mode changed": {
			map[string]tree.Entry{"usr/bin/a": file("usr/bin/a", "A"), "usr/bin": mode(directory("usr/bin"), 0o700)},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"),
				mode(directory("usr/bin"), 0o700), file("usr/bin/a", "A")},
		},
		"a mode changed": {
			map[string]tree.Entry{"usr/bin/a": mode(file("usr/bin/a", "a"), 0o4755)},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), directory("usr/bin"),
				mode(file("usr/bin/a", "a"), 0o4755)},
		},
		"a file was removed and a neighbour stayed": {
			map[string]tree.Entry{"usr/bin/a": {}},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), directory("usr/bin"), whiteout("usr/bin/a")},
		},
		"a directory lost all it held": {
			map[string]tree.Entry{"usr/bin/a": {}, "usr/bin/b": {}},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), opaque(directory("usr/bin"))},
		},
		"a directory of the top level lost all it held": {
			map[string]tree.Entry{"etc/conf": {}},
			[]tree.Entry{rootEntry(), directory("etc"), whiteout("etc/conf"), directory("usr")},
		},
		"a directory was removed": {
			map[string]tree.Entry{"usr/lib/x": {}, "usr/lib/x/y": {}, "usr/lib": {}},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), whiteout("usr/lib")},
		},
		"a directory of the top level was removed": {
			map[string]tree.Entry{"etc/conf": {}, "etc": {}},
			[]tree.Entry{rootEntry(), whiteout("etc"), directory("usr")},
		},
		"a directory became a file": {
			map[string]tree.Entry{"usr/lib/x/y": {}, "usr/lib/x": file("usr/lib/x", "x")},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), directory("usr/lib"), file("usr/lib/x", "x")},
		},
		"a file became a directory": {
			map[string]tree.Entry{"usr/plain": directory("usr/plain"), "usr/plain/z": file("usr/plain/z", "z")},
			[]tree.Entry{rootEntry(), directory("etc"), directory("usr"), opaque(directory("usr/plain")),
				file("usr/plain/z", "z")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			entries := map[string]tree.Entry{}
			for _, e := range old {
				entries[e.Path] = e
			}
			for path, e := range test.change {
				if entries[path] = e; e.Type == 0 {
					delete(entries, path)
				}
			}
			var list []tree.Entry
			for _, e := range entries {
				list = append(list, e)
			}
			new, err := tree.New(list, nil)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, Delta(old, new.Entries), cmp.Comparer(tree.Equal)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestDeltaLeavesItsInputAsItWas(t *testing.T) {
	attributes := map[string]string{"user.note": "x"}
	new := []tree.Entry{rootEntry(), directory("usr"), directory("usr/a")}
	new[2].Xattrs = attributes
	Delta([]tree.Entry{rootEntry(), directory("usr"), file("usr/a", "")}, new)
	if len(attributes) != 1 {
		t.Errorf("the new tree's attributes became %v", attributes)
	}
}

func TestATreeWithMarksOfOverlayfsIsRefused(t *testing.T) {
	for _, e := range []tree.Entry{whiteout("a"), opaque(directory("a"))} {
		if err := CheckTree([]tree.Entry{rootEntry(), e}); !errors.Is(err, ErrOverlayMark) {
			t.Errorf("%+v: got %v, want ErrOverlayMark", e, err)
		}
	}
	if err := CheckTree([]tree.Entry{rootEntry(),
		{Path: "null", Type: tree.CharDevice, Major: 1, Minor: 3}}); err != nil {
		t.Error(err)
	}
}

// Whatever was changed, a delta over the old tree shows the new one.
func TestADeltaOverTheOldTreeShowsTheNewOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old, _ := sourcetest.DrawTree(t)
		new, _ := sourcetest.DrawTree(t)
		if diff := cmp.Diff(new.Entries, Apply(old.Entries, Delta(old.Entries, new.Entries)),
			cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}

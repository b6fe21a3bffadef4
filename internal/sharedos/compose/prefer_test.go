package compose_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestWhoDecidesAboutAPath(t *testing.T) {
	of := func(name, input string) *release.Manifest { return &release.Manifest{Name: name, Input: input} }
	nginx, redis, site := of("nginx", "debian:1"), of("redis", "debian:2"), of("site", "archive:3")
	has := func(text string) *tree.Entry {
		return &tree.Entry{Path: "usr/a/b", Type: tree.Regular, Size: int64(len(text)), Digest: tree.Sum([]byte(text))}
	}
	prefer := func(path, component string) []release.Preference {
		return []release.Preference{{Path: path, Component: component}}
	}
	for name, test := range map[string]struct {
		rivals []compose.Rival
		prefer []release.Preference
		want   int
		used   bool
		fails  bool
	}{
		"packages alone": {rivals: []compose.Rival{{nginx, has("1")}, {redis, has("2")}},
			want: compose.ByPackages},
		"packages alone, and a preference": {rivals: []compose.Rival{{nginx, has("1")}, {redis, has("2")}},
			prefer: prefer("/usr", "redis"), want: compose.ByPackages},
		"one component": {rivals: []compose.Rival{{site, has("1")}},
			prefer: prefer("/usr", "nginx")},
		"the same": {rivals: []compose.Rival{{nginx, has("1")}, {site, has("1")}},
			prefer: prefer("/usr", "nginx"), want: 1},
		"another content": {rivals: []compose.Rival{{nginx, has("1")}, {site, has("2")}},
			fails: true},
		"removed by one": {rivals: []compose.Rival{{nginx, has("1")}, {site, nil}},
			fails: true},
		"the file of files": {rivals: []compose.Rival{{nginx, has("1")}, {site, nil}},
			prefer: prefer("/usr/a/b", "site"), want: 1, used: true},
		"the file of packages": {rivals: []compose.Rival{{nginx, has("1")}, {site, has("2")}},
			prefer: prefer("/usr/a", "nginx"), want: compose.ByPackages, used: true},
		"a preference for who has nothing there": {rivals: []compose.Rival{{nginx, has("1")}, {site, has("2")}},
			prefer: prefer("/usr/a/b", "redis"), fails: true},
		"a preference elsewhere": {rivals: []compose.Rival{{nginx, has("1")}, {site, has("2")}},
			prefer: prefer("/usr/a/bc", "site"), fails: true},
		"a preference below": {rivals: []compose.Rival{{nginx, has("1")}, {site, has("2")}},
			prefer: prefer("/usr/a/b/c", "site"), fails: true},
		"the third of three": {rivals: []compose.Rival{{nginx, has("1")}, {redis, has("1")},
			{site, has("2")}}, prefer: prefer("/usr", "site"), want: 2, used: true},
		"two of files that agree against package": {rivals: []compose.Rival{{site, has("1")}, {of("other", "oci:1"), has("1")}, {nginx, has("2")}}, fails: true},
	} {
		got, by, err := compose.Settle("usr/a/b", test.rivals, test.prefer)
		if test.fails {
			var conflict *compose.Conflict
			if !errors.As(err, &conflict) || conflict.What != "/usr/a/b" {
				t.Errorf("%s: got %v", name, err)
			}
			continue
		}
		if err != nil || got != test.want || (by != nil) != test.used {
			t.Errorf("%s: got %d, %v, %v", name, got, by, err)
		}
	}
}

func TestPreferencesThatSettleNothingAreKnown(t *testing.T) {
	w := newWorld(t)
	one := w.put(base(), map[string]string{"usr/x": "0", "usr/y": "0"})
	a := w.put(component(one, "a", nil), map[string]string{"usr/x": "1", "usr/y": "0", "usr/a": "a"})
	b := w.put(component(one, "b", nil), map[string]string{"usr/x": "2", "usr/y": "0"})
	prefer := []release.Preference{{Path: "/etc", Component: "a"}, {Path: "/usr/a", Component: "a"},
		{Path: "/usr/x", Component: "b"}}
	parts := compose.Parts{Base: one, Components: []release.Identified{a, b}, Prefer: prefer}
	used, unused, err := parts.Preferences(w.open)
	if diff := cmp.Diff([][]release.Preference{prefer[2:], prefer[:2]},
		[][]release.Preference{used, unused}); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	parts.Components = parts.Components[:1]
	if used, unused, err := parts.Preferences(nil); err != nil || used != nil || len(unused) != 3 {
		t.Errorf("for one component: %v, %v, %v", used, unused, err)
	}
	if err := parts.Check(); !errors.Is(err, compose.ErrPrefer) || !errors.Is(err, compose.ErrStack) {
		t.Errorf("a component that the stack does not have: %v", err)
	}
}

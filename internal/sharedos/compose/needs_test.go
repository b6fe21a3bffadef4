package compose_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// What a file needs and neither its component nor the base has can come from another component.
func TestWhatAComponentNeedsIsInTheStack(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"usr/lib/libc.so.6": "libc", "etc/os-release": "Debian"}
	on := w.put(base(), files)
	with := func(name string, needs []release.Need, more ...string) release.Identified {
		all := maps.Clone(files)
		for _, path := range more {
			all[path] = path
		}
		return w.put(component(on, name, func(m *release.Manifest) { m.Needs = needs }), all)
	}
	python := with("python", nil, "usr/bin/python3", "usr/lib/x/libpq.so.5")
	other := with("other", nil, "usr/share/other")
	for name, test := range map[string]struct {
		need  release.Need
		also  []release.Identified
		lacks string
	}{
		"an interpreter that another has": {release.Need{File: "opt/app", Program: "/usr/bin/python3"},
			[]release.Identified{python}, ""},
		"one below a link of the root": {release.Need{File: "opt/app", Program: "/bin/python3"},
			[]release.Identified{python}, ""},
		"one that env looks for": {release.Need{File: "opt/app", Program: "python3"},
			[]release.Identified{python}, ""},
		"a library that another has": {release.Need{File: "opt/app", Libraries: []string{"libpq.so.5"}},
			[]release.Identified{python}, ""},
		"an interpreter, and nothing else": {release.Need{File: "opt/app", Program: "/usr/bin/python3"}, nil,
			"/opt/app is to be run by /usr/bin/python3"},
		"an interpreter that no other has": {release.Need{File: "opt/app", Program: "/usr/bin/python3"},
			[]release.Identified{other}, "/opt/app is to be run by /usr/bin/python3"},
		"one of two libraries": {release.Need{File: "opt/app",
			Libraries: []string{"libpq.so.5", "libx.so.1"}}, []release.Identified{python},
			"/opt/app needs the library libx.so.1"},
		"a directory of the name of the one": {release.Need{File: "opt/app", Program: "other"},
			[]release.Identified{with("dir", nil, "usr/share/other/a")}, "is to be run by other"},
	} {
		t.Run(name, func(t *testing.T) {
			app := with("app", []release.Need{test.need}, "opt/app")
			_, _, err := compose.Compose(compose.Parts{Base: on,
				Components: append([]release.Identified{app}, test.also...)}, w.open)
			if test.lacks == "" && err != nil {
				t.Error(err)
			}
			if test.lacks != "" &&
				(!errors.Is(err, compose.ErrNeeds) || !errors.Is(err, compose.ErrStack) ||
					!strings.Contains(err.Error(), `component "app": `) ||
					!strings.Contains(err.Error(), test.lacks)) {
				t.Errorf("got %v, want ErrNeeds that says %q", err, test.lacks)
			}
		})
	}
}

package debian

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// Without a suite of its own, a component takes those of its base, in either form of sources.list(5).
func TestSuitesAreThoseOfTheBase(t *testing.T) {
	for name, test := range map[string]struct {
		file, text string
		want       []string // the suites, and after them the components
	}{
		"lines": {"etc/apt/sources.list", "# deb http://a no main\ndeb http://a trixie main non-free # comment\n" +
			"deb [check-valid-until=no] http://a trixie-updates main\ndeb-src http://a source main\n",
			[]string{"trixie", "trixie-updates", ":main", ":non-free"}},
		"an archive with a key of its own": {"etc/apt/sources.list.d/x.list",
			"deb [signed-by=/k] http://b own main\ndeb http://a trixie main\n", []string{"trixie", ":main"}},
		"stanzas": {"etc/apt/sources.list.d/debian.sources",
			"Types: deb deb-src\nURIs: http://a\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: " +
				"/usr/share/keyrings/debian.gpg\n\nTypes: deb\nURIs: http://b\nSuites: own\nComponents: " +
				"main\nSigned-By:\n -----BEGIN PGP\n\nEnabled: no\nTypes: deb\nURIs: http://c\nSuites: " +
				"off\nComponents: main\n\nTypes: deb-src\nURIs: http://c\nSuites: source\nComponents: main\n",
			[]string{"trixie", "trixie-updates", ":main"}},
		"none":             {"etc/apt/sources.list", "", nil},
		"another file":     {"etc/apt/sources.list.d/x.save", "deb http://a trixie main\n", nil},
		"a flat archive":   {"etc/apt/sources.list", "deb http://a ./\n", nil},
		"a broken options": {"etc/apt/sources.list", "deb [x http://a trixie main\n", nil},
	} {
		base := sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.File("usr/lib/sysimage/dpkg/status", ""),
			sourcetest.Link("var/lib/dpkg", "../../usr/lib/sysimage/dpkg"), sourcetest.File(test.file, test.text)))
		made, err := Addition{&Source{Packages: []string{"x"}}}.On(t.Context(), source.Base{Name: "os", Tree: base})
		if test.want == nil {
			if err == nil || !strings.Contains(err.Error(), "set suite") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		sourcetest.Must(t, err)
		var got []string
		if on, ok := made.(*added); ok {
			got = append([]string{on.Suite}, on.AdditionalSuites...)
			for _, component := range on.Components {
				got = append(got, ":"+component)
			}
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

func TestWhatAComponentOfPackagesNeedsOfItsBase(t *testing.T) {
	base := source.Base{Name: "os", Tree: sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.Dir("usr")))}
	if _, err := (Addition{&Source{Suite: "trixie"}}).On(t.Context(), base); !errors.Is(err, source.ErrRefused) ||
		!strings.Contains(err.Error(), "dpkg") {
		t.Errorf("a base without dpkg: %v", err)
	}
	base.Tree = sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.File("var/lib/dpkg/status", "")))
	own := &Source{Suite: "trixie", AdditionalSuites: []string{}, Packages: []string{"x"}}
	made, err := Addition{own}.On(t.Context(), base)
	sourcetest.Must(t, err)
	if on, ok := made.(*added); !ok || on.Suite != "trixie" || len(on.AdditionalSuites) != 0 || on.Source == own {
		t.Errorf("%+v", made)
	}
}

// What apt would replace is read from its simulation, and reported only if it is of the base.
func TestBlockedPackagesAreNamed(t *testing.T) {
	base := sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.File("usr/lib/sysimage/dpkg/status",
		"Package: dpkg\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n\nPackage: libold\nStatus: "+
			"install ok installed\nArchitecture: amd64\nVersion: 1.0\n\nPackage: gone\nStatus: install ok "+
			"installed\nArchitecture: all\nVersion: 2\n\nPackage: libx\nStatus: install ok installed\nArchitecture: "+
			"i386\nVersion: 3\n")))
	a := &added{Source: &Source{}, base: source.Base{Name: "os", Tree: base}}
	failed := errors.New("apt failed")
	for name, test := range map[string]struct {
		said string
		want []Blocked
	}{
		"nothing was simulated": {"", nil},
		"new packages only": {"Inst new (2.0 Debian:13/stable [amd64])\nConf new (2.0 Debian:13/stable [amd64])\n",
			nil},
		"all kinds": {"NOTE: this is only a simulation!\nRemv gone [2]\nInst libold [1.0] (1.1 Debian:13/stable " +
			"[amd64])\nInst libx:i386 [3] (4 Debian:13/stable [i386])\nInst other [1] (2 Debian:13/stable " +
			"[amd64])\nConf libold (1.1 Debian:13/stable [amd64])\n",
			[]Blocked{{Name: "gone", Has: "2"}, {Name: "libold", Has: "1.0", Needs: "1.1"},
				{Name: "libx", Has: "3", Needs: "4"}}},
	} {
		dir := t.TempDir()
		sourcetest.Must(t, os.WriteFile(filepath.Join(dir, "blocked"), []byte(test.said), 0o600))
		err := a.explain(dir, failed)
		var blocked *BlockedError
		if errors.As(err, &blocked) != (test.want != nil) || !errors.Is(err, failed) {
			t.Errorf("%s: %v", name, err)
		}
		if blocked != nil && (!slices.Equal(blocked.Packages, test.want) || !errors.Is(err, source.ErrRefused) ||
			!strings.Contains(err.Error(), "libold 1.1 (the base has 1.0)") ||
			!strings.Contains(err.Error(), "gone would have to be removed")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheModeReachesMmdebstrap(t *testing.T) {
	a := &added{Source: &Source{}}
	for mode, want := range map[string]bool{"": false, "auto": false, "unshare": true} {
		args := a.customArgs(&input{mode: mode, Architecture: "amd64"}, t.TempDir())
		if slices.Contains(args, "--mode="+mode) != want || !slices.Contains(args, "--variant=custom") {
			t.Errorf("mode %q: %v", mode, args)
		}
	}
}

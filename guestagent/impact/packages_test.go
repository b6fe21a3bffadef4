package impact

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPackagesOfWhatIsUsedAreTold(t *testing.T) {
	directory := t.TempDir()
	for name, text := range map[string]string{
		"libssl3t64:amd64.list": "/.\n/usr\n/usr/lib/x86_64-linux-gnu/libssl.so.3\n",
		"nginx.list":            "/usr/sbin/nginx",                // no newline at the end
		"old.list":              "/lib/x86_64-linux-gnu/old.so\n", // as before the merge of /usr
		"both.list":             strings.Repeat("/usr/share/doc/filler\n", 20_000) + "/usr/sbin/nginx\n",
		"nginx.md5sums":         "/usr/lib/x86_64-linux-gnu/libssl.so.3\n",
	} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := &Assessment{Affected: []Affected{
		{Unit: "a", Paths: []string{"/usr/sbin/nginx", "/" + ssl}},
		{Unit: "b", Paths: []string{"/usr/lib/x86_64-linux-gnu/old.so"}}, {Unit: "c", Paths: []string{"/usr/none"}},
	}}
	index := PackageIndex{Directory: directory}
	if err := index.Set(t.Context(), "one", a); err != nil {
		t.Fatal(err)
	}
	right := func() {
		t.Helper()
		for i, want := range [][]string{{"both", "libssl3t64", "nginx"}, {"old"}, nil} {
			if got := a.Affected[i].Packages; !slices.Equal(got, want) {
				t.Errorf("%s uses %q, want %q", a.Affected[i].Unit, got, want)
			}
		}
	}
	right()
	none := PackageIndex{Directory: filepath.Join(directory, "none")}
	if err := none.Set(t.Context(), "one", &Assessment{Affected: slices.Clone(a.Affected)}); err != nil {
		t.Errorf("a system without packages: %v", err)
	}
	if err := os.WriteFile(filepath.Join(directory, "endless.list"), make([]byte, maxListLine+1), 0o600); err != nil {
		t.Fatal(err)
	}
	// What was asked before is remembered, for the system that was asked.
	if err := index.Set(t.Context(), "one", a); err != nil {
		t.Errorf("the same files again: %v", err)
	}
	right()
	if err := index.Set(t.Context(), "two", a); err == nil || !strings.Contains(err.Error(), "endless.list") {
		t.Errorf("a line without end: %v", err)
	}
}

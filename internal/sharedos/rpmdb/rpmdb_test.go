package rpmdb

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rpmdb/rpmtest"
)

func TestPackagesAreWhatRpmInstalled(t *testing.T) {
	// One header is larger than a page, and the rows need more than one page.
	var provides strings.Builder
	for i := range 2000 {
		fmt.Fprintf(&provides, "Provides: capability-%d\n", i)
	}
	specs := []string{
		rpmtest.Spec("zlib", "1.3", "2.fc40", "Epoch: 1\n"), rpmtest.Spec("kernel-core", "6.12.1", "1.fc40", ""),
		rpmtest.Spec("kernel-core", "6.12.2", "1.fc40", ""),
		rpmtest.Spec("large", "1", "1", provides.String()),
	}
	want := []Package{
		{"kernel-core", "noarch", "6.12.1-1.fc40"}, {"kernel-core", "noarch", "6.12.2-1.fc40"}, {"large", "noarch", "1-1"},
	}
	for i := range 6 {
		name := fmt.Sprintf("p%02d", i)
		specs = append(specs, rpmtest.Spec(name, "1", "1", ""))
		want = append(want, Package{name, "noarch", "1-1"})
	}
	want = append(want, Package{"zlib", "noarch", "1:1.3-2.fc40"})
	got, err := Packages(rpmtest.Database(t, specs...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAFileThatIsNotADatabaseIsRefused(t *testing.T) {
	whole := rpmtest.Database(t, rpmtest.Spec("a", "1", "1", ""))
	for name, file := range map[string][]byte{
		"nothing": nil, "text": []byte(strings.Repeat("text", 100)), "cut off": whole[:len(whole)/4],
		"the header alone": whole[:100],
	} {
		if packages, err := Packages(file); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: got %v, %v", name, packages, err)
		}
	}
}

func FuzzPackages(f *testing.F) {
	whole := rpmtest.Database(f, rpmtest.Spec("a", "1", "1", ""))
	f.Add(whole)
	f.Add(whole[:4096])
	f.Fuzz(func(t *testing.T, file []byte) {
		packages, err := Packages(file)
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Fatalf("the error does not match ErrMalformed: %v", err)
		}
		for _, p := range packages {
			if p.Name == "" || p.Version == "" {
				t.Fatalf("%+v", p)
			}
		}
	})
}
